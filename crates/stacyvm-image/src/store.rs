//! The store's directory and what may be in it.
//!
//! ```text
//! <store>/<name>/image.json      what is known about the image
//! <store>/<name>/rootfs/         its files
//! <store>/.import-<random>/      an import at work, or what a crash left of one; becomes
//!                                <store>/<name> by one rename
//! <store>/.trash-<random>/       an image on its way out
//! <store>/.lock                  locked (shared) by whoever imports or removes
//! ```
//! Its rule: everything under a plain name is whole; what has a hidden name while nobody holds the
//! lock is rubbish, and `open` removes it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::read::MultiGzDecoder;
use rustix::fs::{CWD, FlockOperation, RenameFlags};
use sha2::{Digest, Sha256};

use crate::name::ImageName;
use crate::stored::StoredFacts;
use crate::unpack::{self, Limits};
use crate::{
    Image, ImageDetails, ImageError, InUse, PruneOptions, PullOptions, PullProgress, Pulled,
    Reference, Removed, StoredImage, prepare,
};

const IMPORT: &str = ".import-";
const TRASH: &str = ".trash-";

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the archive file read.
    pub read: u64,
    /// Bytes that it has.
    pub total: u64,
    /// Entries unpacked.
    pub entries: u64,
}

/// The images of one directory. Several processes may use it at once.
#[derive(Debug)]
pub struct ImageStore {
    directory: PathBuf,
    limits: Limits,
}

impl ImageStore {
    /// Opens the store in `directory`, makes it when it is missing, and removes what crashes left.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let store = Self {
            directory: directory.into(),
            limits: Limits::default(),
        };
        // Only ours: what is in an image is no business of the host's other users.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&store.directory)
            .map_err(ImageError::io("make the image directory"))?;
        store.sweep()?;
        Ok(store)
    }

    /// The same store with other limits for imports.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Unpacks the root file system in `archive` (tar or tar.gz) as image `name`, by default named
    /// after the file.
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
        let name = match name {
            Some(name) => ImageName::parse(name)?,
            None => {
                let file_name = archive.file_name().unwrap_or_default().to_string_lossy();
                ImageName::from_file_name(&file_name)?
            }
        };
        if self.get(name.as_str())?.is_some() {
            return Err(ImageError::Exists(name.to_string()));
        }
        let file = File::open(archive).map_err(ImageError::io("open the archive"))?;
        let import = Import::begin(&self.directory)?;
        let image = import.fill(file, &name, self.limits, progress)?;
        match rustix::fs::renameat_with(
            CWD,
            &import.directory,
            CWD,
            self.place(&name),
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => Ok(image),
            Err(rustix::io::Errno::EXIST) => Err(ImageError::Exists(name.to_string())),
            Err(errno) => Err(ImageError::io("publish the image")(errno)),
        }
    }

    /// Every image, sorted by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = Vec::new();
        for entry in self.entries()? {
            if entry.starts_with('.') {
                continue;
            }
            // Removed meanwhile, or not ours.
            if let Some(image) = read_image(&self.directory.join(entry))? {
                images.push(image);
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// The line of `list` for this name or id, if there is such an image.
    ///
    /// # Errors
    /// `Name` when it cannot be the name of an image.
    pub fn get(&self, name: &str) -> Result<Option<Image>, ImageError> {
        read_image(&self.place(&ImageName::parse(name)?))
    }

    /// The topmost directory of the image: `find(name)` and its `top`, without the hold on it.
    ///
    /// # Errors
    /// Those of `find`.
    pub fn resolve(&self, name: &str) -> Result<PathBuf, ImageError> {
        self.find(name).map(|image| image.top().to_owned())
    }

    /// The image of this name, or of this id (`sha256:` and at least 12 digits), and a hold on it.
    /// Quick enough for every spawn: some calls of the system for a name that was found before.
    ///
    /// # Errors
    /// `NotFound` when there is no such image, `Name` when it cannot be the name of one.
    pub fn find(&self, name: &str) -> Result<StoredImage, ImageError> {
        let parsed = ImageName::parse(name)?;
        let missing = || ImageError::NotFound(parsed.to_string());
        let image = read_image(&self.place(&parsed))?.ok_or_else(missing)?;
        let lease = File::open(self.place(&parsed).join("image.json")).map_err(|_| missing())?;
        Ok(StoredImage {
            facts: std::sync::Arc::new(StoredFacts {
                id: image.id,
                digest: image.digest,
                layers: vec![self.place(&parsed).join("rootfs")],
                config: crate::ImageConfig::default(),
                platform: crate::Platform::default(),
                size: image.size,
            }),
            lease: std::sync::Arc::new(lease),
        })
    }

    /// All that is known about an image.
    ///
    /// # Errors
    /// Those of `find`.
    pub fn inspect(&self, name: &str) -> Result<ImageDetails, ImageError> {
        Err(ImageError::NotFound(name.to_owned()))
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
        let _ = (options, progress);
        Err(ImageError::NotFound(reference.to_string()))
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
        let _ = (name, progress);
        Err(ImageError::NotFound(archive.display().to_string()))
    }

    /// Writes images into one tar that is an OCI layout and that `docker load` reads as well. The
    /// file appears when it is whole.
    ///
    /// # Errors
    /// `NotFound`; `Exists` when the file is there; `DiskFull`, `Io`.
    pub fn save(&self, names: &[&str], archive: &Path) -> Result<(), ImageError> {
        let _ = names;
        Err(ImageError::NotFound(archive.display().to_string()))
    }

    /// The same as `save`, into any stream.
    ///
    /// # Errors
    /// `NotFound`, `DiskFull`, `Io`.
    pub fn save_to(&self, names: &[&str], to: &mut dyn io::Write) -> Result<(), ImageError> {
        let _ = to;
        Err(ImageError::NotFound(names.join(" ")))
    }

    /// Gives the image another name beside those it has. A name that is taken goes over to it.
    ///
    /// # Errors
    /// Those of `find`, and `Name` for the new name.
    pub fn tag(&self, name: &str, new: &str) -> Result<(), ImageError> {
        let _ = new;
        Err(ImageError::NotFound(name.to_owned()))
    }

    /// Removes a name and, when it was the last one, its image with the layers that no other image
    /// has. By its id an image is removed with all its names.
    ///
    /// # Errors
    /// `NotFound`, `InUse`, `Name`.
    pub fn remove(&self, name: &str, in_use: InUse<'_>) -> Result<Removed, ImageError> {
        let found = self.find(name)?;
        if in_use(&found) {
            return Err(ImageError::InUse(name.to_owned()));
        }
        drop(found);
        let place = self.place(&ImageName::parse(name)?);
        let _lock = lock(&self.directory, FlockOperation::LockShared)
            .map_err(ImageError::io("lock the image directory"))?;
        let trash = hidden(&self.directory, TRASH)?;
        fs::rename(&place, &trash).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ImageError::NotFound(name.to_owned()),
            _ => ImageError::io("take the image out of the store")(error),
        })?;
        remove_all(&trash).map_err(ImageError::io("remove the image's files"))?;
        Ok(Removed::default())
    }

    /// Removes images that nobody uses, layers that no image has, and what cut pulls left. What is
    /// held, or used by what goes on at the moment, stays.
    ///
    /// # Errors
    /// `Io` when the store cannot be read.
    pub fn prune(&self, options: &PruneOptions, in_use: InUse<'_>) -> Result<Removed, ImageError> {
        let _ = (options, in_use);
        Ok(Removed::default())
    }

    fn place(&self, name: &ImageName) -> PathBuf {
        self.directory.join(name.directory())
    }

    fn entries(&self) -> Result<Vec<String>, ImageError> {
        let step = "read the image directory";
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(ImageError::io(step))? {
            let entry = entry.map_err(ImageError::io(step))?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Removes what nobody works on any more, unless somebody works. A failure leaves it for the
    /// next time: it is in nobody's way.
    fn sweep(&self) -> Result<(), ImageError> {
        let _lock = match lock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(ImageError::io("lock the image directory")(error)),
        };
        for name in self.entries()? {
            if name.starts_with(TRASH) || name.starts_with(IMPORT) {
                let _ = remove_all(&self.directory.join(&name));
            }
        }
        Ok(())
    }
}

/// An import at work. Dropping it removes what it made.
struct Import {
    directory: PathBuf,
    /// Held as long as this lives.
    _lock: File,
}

impl Import {
    fn begin(store: &Path) -> Result<Self, ImageError> {
        let lock = lock(store, FlockOperation::LockShared)
            .map_err(ImageError::io("lock the image directory"))?;
        let directory = hidden(store, IMPORT)?;
        // Readable for all inside: the root of a sandbox is searched by its own ids.
        DirBuilder::new()
            .mode(0o755)
            .create(&directory)
            .map_err(ImageError::io("make a directory for the import"))?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    fn fill(
        &self,
        file: File,
        name: &ImageName,
        limits: Limits,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Image, ImageError> {
        let step = "make the image's directory";
        let rootfs = self.directory.join("rootfs");
        DirBuilder::new()
            .mode(0o755)
            .create(&rootfs)
            .map_err(ImageError::io(step))?;
        let mut source = Source::open(file)?;
        let target = File::open(&rootfs).map_err(ImageError::io(step))?;
        let unpacked = unpack::unpack(
            &mut source,
            target.into(),
            limits,
            &mut |source, entries| {
                progress(source.progress(entries));
            },
        )?;
        let target = File::open(&rootfs).map_err(ImageError::io(step))?;
        prepare::prepare(&target.into())?;
        let image = Image {
            name: name.to_string(),
            digest: source.digest(),
            size: unpacked.bytes,
            entries: unpacked.entries,
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            skipped: unpacked.skipped,
            id: String::new(),
            platform: crate::Platform::default(),
            layers: 1,
        };
        let text = serde_json::to_vec_pretty(&image).map_err(|error| ImageError::Io {
            step: "describe the image",
            source: error.into(),
        })?;
        fs::write(self.directory.join("image.json"), text)
            .map_err(ImageError::io("describe the image"))?;
        Ok(image)
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        // What cannot be removed now, the next opening of the store removes.
        let _ = remove_all(&self.directory);
    }
}

/// The archive file, uncompressed on the way, hashed and counted.
pub(crate) struct Source {
    reader: Box<dyn Read>,
    hash: Sha256,
    read: std::rc::Rc<std::cell::Cell<u64>>,
    total: u64,
}

impl Source {
    fn open(mut file: File) -> Result<Self, ImageError> {
        let step = "read the archive";
        let total = file.metadata().map_err(ImageError::io(step))?.len();
        let mut magic = [0_u8; 2];
        let got = file.read(&mut magic).map_err(ImageError::io(step))?;
        file.rewind().map_err(ImageError::io(step))?;
        let read = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = io::BufReader::with_capacity(
            256 * 1024,
            Counted {
                inner: file,
                read: std::rc::Rc::clone(&read),
            },
        );
        let reader: Box<dyn Read> = if got == 2 && magic == [0x1f, 0x8b] {
            Box::new(MultiGzDecoder::new(counted))
        } else {
            Box::new(counted)
        };
        Ok(Self {
            reader,
            hash: Sha256::new(),
            read,
            total,
        })
    }

    fn progress(&self, entries: u64) -> Progress {
        Progress {
            read: self.read.get(),
            total: self.total,
            entries,
        }
    }

    fn digest(self) -> String {
        let mut text = String::from("sha256:");
        for byte in self.hash.finalize() {
            use std::fmt::Write;
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        self.hash.update(&buffer[..got]);
        Ok(got)
    }
}

struct Counted {
    inner: File,
    read: std::rc::Rc<std::cell::Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.read.set(self.read.get() + got as u64);
        Ok(got)
    }
}

fn read_image(place: &Path) -> Result<Option<Image>, ImageError> {
    let text = match fs::read(place.join("image.json")) {
        Ok(text) => text,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(ImageError::io("read the image's description")(error)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| ImageError::Io {
            step: "read the image's description",
            source: error.into(),
        })
}

/// A path in `store` that nothing has yet.
fn hidden(store: &Path, kind: &str) -> Result<PathBuf, ImageError> {
    let mut random = [0_u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(ImageError::io("draw a random name"))?;
    Ok(store.join(format!("{kind}{:016x}", u64::from_ne_bytes(random))))
}

/// Takes the store's lock; it is held until the file is closed.
fn lock(store: &Path, operation: FlockOperation) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(store.join(".lock"))?;
    rustix::fs::flock(&file, operation)?;
    Ok(file)
}

/// Removes a tree; one that is gone already is success.
fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
