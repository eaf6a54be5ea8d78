//! The images of this machine, as providers and the command line use them.
//!
//! Owns the public operations; what each of them does stands in a module of its own.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::{ContentStore, images, layer, lookup, removal};
use crate::{
    Image, ImageDetails, ImageError, InUse, LayerDetails, Limits, Progress, PruneOptions,
    PullOptions, PullProgress, Pulled, Reference, Removed, StoredImage, import, load, pull, save,
};

/// The images of one directory. Several processes may use it at once.
#[derive(Debug)]
pub struct ImageStore {
    content: ContentStore,
}

impl ImageStore {
    /// Opens the store in `directory`, makes it when it is missing, and removes what crashes left.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, ImageError> {
        ContentStore::open(directory.into()).map(|content| Self { content })
    }

    /// The same store with other limits for what comes in.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.content.set_limits(limits);
        self
    }

    /// Unpacks the root file system in `archive` (tar, plain or compressed by gzip or zstd) as image
    /// `name`, by default named after the file.
    ///
    /// # Errors
    /// `Exists` when the name is taken, `Archive` when the archive is broken, hostile or no root
    /// file system, `Limit` when it is too large. Nothing of it is left then.
    pub fn import(
        &self,
        archive: &Path,
        name: Option<&str>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Image, ImageError> {
        import::import(&self.content, archive, name, progress)
    }

    /// Takes the images out of an archive of `docker save` or of an OCI layout: a tar, plain or
    /// compressed by gzip or zstd, or the directory of a layout. They keep the names that the
    /// archive gives them; `name` is for an archive with a single image. A name that is taken goes
    /// over to the loaded image.
    ///
    /// # Errors
    /// `Archive` when it is broken, hostile or holds no image, and those of unpacking.
    pub fn load(
        &self,
        archive: &Path,
        name: Option<&str>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Image>, ImageError> {
        load::load(&self.content, archive, name, progress)
    }

    /// Writes images into one tar that is an OCI layout and that `docker load` reads as well. The
    /// file appears when it is whole.
    ///
    /// # Errors
    /// `NotFound`; `Exists` when the file is there; `DiskFull`, `Io`.
    pub fn save(&self, names: &[&str], archive: &Path) -> Result<(), ImageError> {
        save::save(&self.content, names, archive)
    }

    /// The same as `save`, into any stream.
    ///
    /// # Errors
    /// `NotFound`, `DiskFull`, `Io`.
    pub fn save_to(&self, names: &[&str], to: &mut dyn io::Write) -> Result<(), ImageError> {
        save::save_to(&self.content, names, to)
    }

    /// Makes sure that the image of this name is there: pulls it from its registry when it is missing,
    /// or when the policy says so. Several pulls of one image, in this process and in others, fetch
    /// each layer once.
    ///
    /// # Errors
    /// `Unknown`, `LoginNeeded`, `LoginRefused`, `Credentials`, `Registry`, `TooManyRequests`,
    /// `Digest`, `Platform`, `Archive`, `Limit`, `DiskFull`, `Cancelled`, `Io`. Nothing of the image
    /// is visible then; layers that are whole, and what came of the others, are kept for the next
    /// attempt.
    pub fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &(dyn Fn(PullProgress) + Sync),
    ) -> Result<Pulled, ImageError> {
        pull::pull(&self.content, reference, options, progress)
    }

    /// The image of this name, or of this id (`sha256:` and at least 12 digits), held so that it is not
    /// removed. Quick enough for every spawn: a few system calls for a name that was found before.
    ///
    /// # Errors
    /// `NotFound` when there is no such image, `Name` when it cannot be the name of one.
    pub fn find(&self, name: &str) -> Result<StoredImage, ImageError> {
        lookup::find(&self.content, name)
    }

    /// The topmost directory of the image: `find(name)` and its `top`, without holding it.
    ///
    /// # Errors
    /// Those of `find`.
    pub fn resolve(&self, name: &str) -> Result<PathBuf, ImageError> {
        self.find(name).map(|image| image.top().to_owned())
    }

    /// Every image, sorted by name; one with several names once for each.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        lookup::list(&self.content)
    }

    /// The summary that `list` gives for this name or id, if there is such an image.
    ///
    /// # Errors
    /// `Name` when it cannot be the name of an image.
    pub fn get(&self, name: &str) -> Result<Option<Image>, ImageError> {
        lookup::get(&self.content, name)
    }

    /// Everything that is known about an image.
    ///
    /// # Errors
    /// Those of `find`.
    pub fn inspect(&self, name: &str) -> Result<ImageDetails, ImageError> {
        let image = lookup::summary(&self.content, name)?;
        let record = match image.id.as_str() {
            "" => None,
            id => lookup::by_id(&self.content, id)?,
        };
        let Some(record) = record else {
            return Ok(ImageDetails {
                names: vec![image.name.clone()],
                made: None,
                config: crate::ImageConfig::default(),
                layer_list: Vec::new(),
                image,
            });
        };
        let mut layer_list = Vec::new();
        for diff_id in &record.layers {
            if let Some(layer) = layer::record(self.content.layout(), *diff_id)? {
                layer_list.push(LayerDetails {
                    diff_id: *diff_id,
                    size: layer.size,
                    entries: layer.entries,
                });
            }
        }
        Ok(ImageDetails {
            names: lookup::names_of(&self.content, record.id)?
                .iter()
                .map(|name| name.name.canonical())
                .collect(),
            image,
            made: record.made,
            config: record.config,
            layer_list,
        })
    }

    /// Gives the image another name beside those it has. A name that is taken goes over to it.
    ///
    /// # Errors
    /// Those of `find`, and `Name` for the new name; `Archive` for an image of the former format,
    /// which has one name.
    pub fn tag(&self, name: &str, new: &str) -> Result<(), ImageError> {
        let new = Reference::parse(new)?;
        let _lock = self.content.layout().lock_for_change()?;
        // Held until its name is there.
        let found = self.find(name)?;
        let id = crate::Digest::parse(found.id()).ok_or_else(|| {
            ImageError::Archive(format!(
                "the image {name:?} is of a former format: import it again to give it more names"
            ))
        })?;
        images::set_name(self.content.layout(), &new, id, found.digest(), true).map(|_| ())
    }

    /// Removes a name and, when it was the last one, its image with the layers that no other image
    /// has. By its id an image is removed with all its names.
    ///
    /// # Errors
    /// `NotFound`, `InUse`, `Name`.
    pub fn remove(&self, name: &str, in_use: InUse<'_>) -> Result<Removed, ImageError> {
        removal::remove(&self.content, name, in_use)
    }

    /// Removes images that no sandbox uses, layers that no image has, and what cut pulls left. What is
    /// held, or used by an operation that goes on at the moment, stays.
    ///
    /// # Errors
    /// `Io` when the store cannot be read.
    pub fn prune(&self, options: &PruneOptions, in_use: InUse<'_>) -> Result<Removed, ImageError> {
        removal::prune(&self.content, options, in_use)
    }
}
