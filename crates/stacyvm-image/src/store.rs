//! The images of this machine.
//!
//! `store/layout.rs` says what lies where and who may touch it when; the other files beside it own
//! one kind of thing each.

mod former;
mod images;
pub(crate) mod layer;
mod layout;
mod lookup;
pub(crate) mod records;
mod removal;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::unpack::{ArchiveKind, Limits, UnpackOptions};
use crate::{
    Image, ImageDetails, ImageError, InUse, LayerDetails, Progress, PruneOptions, PullOptions,
    PullProgress, Pulled, Reference, Removed, StoredImage, fetch, import, load, save,
};
pub(crate) use layer::Layer;
pub(crate) use layout::{Layout, Work};
pub(crate) use records::{ImageRecord, LayerRecord, NameRecord};

/// The images of one directory. Several processes may use it at once.
#[derive(Debug)]
pub struct ImageStore {
    layout: Layout,
    limits: Limits,
    /// What names were found to stand for.
    known: Mutex<HashMap<String, lookup::Known>>,
}

impl ImageStore {
    /// Opens the store in `directory`, makes it when it is missing, and removes what crashes left.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, ImageError> {
        Ok(Self {
            layout: Layout::open(directory.into())?,
            limits: Limits::default(),
            known: Mutex::new(HashMap::new()),
        })
    }

    /// The same store with other limits for what comes in.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
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
        import::import(self, archive, name, progress)
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
        load::load(self, archive, name, progress)
    }

    /// Writes images into one tar that is an OCI layout and that `docker load` reads as well. The
    /// file appears when it is whole.
    ///
    /// # Errors
    /// `NotFound`; `Exists` when the file is there; `DiskFull`, `Io`.
    pub fn save(&self, names: &[&str], archive: &Path) -> Result<(), ImageError> {
        save::save(self, names, archive)
    }

    /// The same as `save`, into any stream.
    ///
    /// # Errors
    /// `NotFound`, `DiskFull`, `Io`.
    pub fn save_to(&self, names: &[&str], to: &mut dyn io::Write) -> Result<(), ImageError> {
        save::save_to(self, names, to)
    }

    /// Makes the image of this name be there: pulls it from its registry when it is missing, or
    /// when the policy says so. Several pulls of one image, in this process and in others, fetch
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
        fetch::pull(self, reference, options, progress)
    }

    /// The image of this name, or of this id (`sha256:` and at least 12 digits), and a hold on it.
    /// Quick enough for every spawn: some calls of the system for a name that was found before.
    ///
    /// # Errors
    /// `NotFound` when there is no such image, `Name` when it cannot be the name of one.
    pub fn find(&self, name: &str) -> Result<StoredImage, ImageError> {
        lookup::find(self, name)
    }

    /// The topmost directory of the image: `find(name)` and its `top`, without the hold on it.
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
        lookup::list(self)
    }

    /// The line of `list` for this name or id, if there is such an image.
    ///
    /// # Errors
    /// `Name` when it cannot be the name of an image.
    pub fn get(&self, name: &str) -> Result<Option<Image>, ImageError> {
        match lookup::line(self, name) {
            Ok(image) => Ok(Some(image)),
            Err(ImageError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All that is known about an image.
    ///
    /// # Errors
    /// Those of `find`.
    pub fn inspect(&self, name: &str) -> Result<ImageDetails, ImageError> {
        let image = lookup::line(self, name)?;
        let record = match image.id.as_str() {
            "" => None,
            id => lookup::by_id(self, id)?,
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
            if let Some(layer) = layer::record(&self.layout, *diff_id)? {
                layer_list.push(LayerDetails {
                    diff_id: *diff_id,
                    size: layer.size,
                    entries: layer.entries,
                });
            }
        }
        Ok(ImageDetails {
            names: lookup::names_of(self, record.id)?
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
        let _busy = self.layout.busy()?;
        // Held until its name is there.
        let found = self.find(name)?;
        let id = crate::Digest::parse(found.id()).ok_or_else(|| {
            ImageError::Archive(format!(
                "the image {name:?} is of a former format: import it again to give it more names"
            ))
        })?;
        images::name(&self.layout, &new, id, found.digest(), true).map(|_| ())
    }

    /// Removes a name and, when it was the last one, its image with the layers that no other image
    /// has. By its id an image is removed with all its names.
    ///
    /// # Errors
    /// `NotFound`, `InUse`, `Name`.
    pub fn remove(&self, name: &str, in_use: InUse<'_>) -> Result<Removed, ImageError> {
        removal::remove(self, name, in_use)
    }

    /// Removes images that nobody uses, layers that no image has, and what cut pulls left. What is
    /// held, or used by what goes on at the moment, stays.
    ///
    /// # Errors
    /// `Io` when the store cannot be read.
    pub fn prune(&self, options: &PruneOptions, in_use: InUse<'_>) -> Result<Removed, ImageError> {
        removal::prune(self, options, in_use)
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// How a layer is unpacked here.
    pub(crate) fn unpack_options(&self, kind: ArchiveKind) -> UnpackOptions {
        UnpackOptions {
            limits: self.limits,
            overlay: self.layout.overlay(),
            kind,
        }
    }

    /// Makes an image of layers that are there, and gives it a name.
    pub(crate) fn publish(
        &self,
        config: &[u8],
        digest: &str,
        layers: &[Layer],
        name: Option<(&Reference, bool)>,
    ) -> Result<Image, ImageError> {
        images::publish(self, config, digest, layers, name)
    }

    /// Gives an image that may be there a name. Answers its line when it is.
    pub(crate) fn rename(
        &self,
        id: crate::Digest,
        digest: &str,
        name: &Reference,
    ) -> Result<Option<Image>, ImageError> {
        images::rename(self, id, digest, name)
    }

    /// What is written down about the image with this id.
    pub(crate) fn record(&self, id: &str) -> Result<Option<ImageRecord>, ImageError> {
        lookup::by_id(self, id)
    }

    /// Removes a layer unless an image has it or somebody holds it.
    pub(crate) fn forget_layer(&self, diff_id: crate::Digest) -> Result<(), ImageError> {
        let _busy = self.layout.busy()?;
        removal::layers(&self.layout, Some(&[diff_id]), &mut Removed::default())
    }

    /// What is written down about a layer.
    pub(crate) fn layer_record(
        &self,
        diff_id: crate::Digest,
    ) -> Result<Option<LayerRecord>, ImageError> {
        layer::record(&self.layout, diff_id)
    }

    /// What a name stands for.
    pub(crate) fn name_record(&self, name: &Reference) -> Result<Option<NameRecord>, ImageError> {
        records::read(&self.layout.name(&name.canonical()))
    }
}
