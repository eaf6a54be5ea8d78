//! Where what is in the store's directory, and who may touch it when.
//!
//! ```text
//! <store>/.lock                            held, shared, by whoever makes or removes something
//! <store>/.oci/layers/<hex>/layer.json     a layer, by its diff id; locked, shared, by its users
//!                          /flushed        when its files are surely on the disk
//!                          /tree/          its files
//! <store>/.oci/images/<hex>/image.json     an image, by its id; locked, shared, by its users
//!                          /config.json    its configuration as it came
//!                          /top/           its topmost layer, made here
//! <store>/.oci/names/<hex>                 which image a name stands for, by the name's digest
//! <store>/.oci/partial/<hex>               a compressed layer on its way; locked by who fetches it
//! <store>/.oci/locks/<hex>                 locked by who makes the layer of this diff id
//! <store>/.oci/making/<random>/            becomes a layer or an image by one rename
//! <store>/.oci/trash/<random>/             removed things on their way out
//! <store>/<name>/                          an image of the store's former format
//! ```
//! A process that may not mark layers for mounts by root has `.oci-user` instead of `.oci`. Its
//! rule: what lies in `layers`, `images` and `names` is whole; what lies in `work`, `trash` and
//! `locks` while nobody holds the lock is rubbish.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use crate::overlay::OverlayAttributes;
use crate::{Digest, ImageError};

/// What an import of the store's former format left.
const FORMER_RUBBISH: [&str; 2] = [".import-", ".trash-"];
/// How long a part of a layer that nobody fetches is kept for the next attempt.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many bytes of such parts are kept; the oldest go first.
const PARTIAL_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// How long a lock is waited for that its holders need but for moments.
const MOMENT: Duration = Duration::from_secs(5);

/// The directories of a store.
#[derive(Debug)]
pub(crate) struct Layout {
    store: PathBuf,
    root: PathBuf,
    overlay: OverlayAttributes,
}

impl Layout {
    /// Makes the directories, and removes what crashes left.
    pub(crate) fn open(store: PathBuf) -> Result<Self, ImageError> {
        let step = "make the image directory";
        // Only ours: what is in an image is no business of the host's other users.
        make_directory(&store, 0o700).map_err(ImageError::io(step))?;
        let overlay = OverlayAttributes::of(&store).map_err(ImageError::io(step))?;
        let root = store.join(match overlay {
            OverlayAttributes::Trusted => ".oci",
            OverlayAttributes::User => ".oci-user",
        });
        let layout = Self {
            store,
            root,
            overlay,
        };
        for part in [
            "layers", "images", "names", "partial", "locks", "making", "trash",
        ] {
            make_directory(&layout.root.join(part), 0o700).map_err(ImageError::io(step))?;
        }
        layout.sweep()?;
        Ok(layout)
    }

    pub(crate) fn overlay(&self) -> OverlayAttributes {
        self.overlay
    }

    /// The store's own directory.
    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn layer(&self, diff_id: Digest) -> PathBuf {
        self.layers().join(diff_id.hex())
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn image(&self, id: Digest) -> PathBuf {
        self.images().join(id.hex())
    }

    pub(crate) fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    pub(crate) fn name(&self, canonical: &str) -> PathBuf {
        self.names().join(Digest::of(canonical.as_bytes()).hex())
    }

    pub(crate) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(crate) fn partial(&self, blob: Digest) -> PathBuf {
        self.partials().join(blob.hex())
    }

    /// Says that something is being made or removed, until the answer is dropped.
    pub(crate) fn busy(&self) -> Result<File, ImageError> {
        lock(&self.store.join(".lock"), FlockOperation::LockShared)
            .map_err(ImageError::io("lock the image directory"))
    }

    /// Waits until nobody else makes this layer, and keeps others from it. `waiting` is called
    /// when that takes a while; `check` ends the wait.
    pub(crate) fn claim(
        &self,
        diff_id: Digest,
        waiting: &mut dyn FnMut(),
        check: &dyn Fn() -> Result<(), ImageError>,
    ) -> Result<File, ImageError> {
        let path = self.root.join("locks").join(diff_id.hex());
        let mut told = false;
        loop {
            check()?;
            match lock(&path, FlockOperation::NonBlockingLockExclusive) {
                Ok(file) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(ImageError::io("lock a layer")(error)),
            }
            if !told {
                waiting();
                told = true;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Moves something out of sight and removes it.
    pub(crate) fn discard(&self, path: &Path) -> io::Result<()> {
        let trash = hidden(&self.root.join("trash"))?;
        match fs::rename(path, &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        remove_all(&trash)
    }

    /// Removes what nobody works on any more, unless somebody works. A failure leaves it for the
    /// next time: it is in nobody's way.
    fn sweep(&self) -> Result<(), ImageError> {
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let _lock = match lock(&self.store.join(".lock"), exclusive) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(ImageError::io("lock the image directory")(error)),
        };
        for part in ["making", "trash", "locks"] {
            for path in children(&self.root.join(part))? {
                let _ = remove_all(&path);
            }
        }
        for path in children(&self.names())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // A name that was not written to its end.
            if name.starts_with('.') {
                let _ = remove_all(&path);
            }
        }
        for path in children(&self.store)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if FORMER_RUBBISH.iter().any(|kind| name.starts_with(kind)) {
                let _ = remove_all(&path);
            }
        }
        self.sweep_partials(PARTIAL_AGE, PARTIAL_BYTES).map(|_| ())
    }

    /// Removes parts of layers that are old or too many, unless somebody fetches them. Answers how
    /// many bytes that were.
    pub(crate) fn sweep_partials(&self, age: Duration, bytes: u64) -> Result<u64, ImageError> {
        let mut found: Vec<(SystemTime, u64, PathBuf)> = children(&self.partials())?
            .into_iter()
            .filter_map(|path| {
                let metadata = path.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), path))
            })
            .collect();
        // The youngest first: they are what is kept.
        found.sort_by_key(|(modified, ..)| std::cmp::Reverse(*modified));
        let (mut kept, mut freed) = (0, 0);
        for (modified, length, path) in found {
            let old = SystemTime::now()
                .duration_since(modified)
                .is_ok_and(|since| since >= age);
            kept += length;
            let exclusive = FlockOperation::NonBlockingLockExclusive;
            if (old || kept > bytes)
                && let Ok(file) = File::open(&path)
                && rustix::fs::flock(&file, exclusive).is_ok()
                && fs::remove_file(&path).is_ok()
            {
                kept -= length;
                freed += length;
            }
        }
        Ok(freed)
    }
}

/// A directory in which something is made. Dropping it removes what was not moved away.
#[derive(Debug)]
pub(crate) struct Work {
    directory: PathBuf,
    /// Held as long as this lives.
    _busy: File,
}

impl Work {
    pub(crate) fn begin(layout: &Layout) -> Result<Self, ImageError> {
        let step = "make a directory to work in";
        let busy = layout.busy()?;
        let directory = hidden(&layout.root.join("making")).map_err(ImageError::io(step))?;
        make_directory(&directory, 0o755).map_err(ImageError::io(step))?;
        Ok(Self {
            directory,
            _busy: busy,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes a directory that a sandbox will see: readable for all, for its root is searched by
    /// the sandbox's own ids.
    pub(crate) fn make(&self, name: &str) -> Result<PathBuf, ImageError> {
        let path = self.path(name);
        let make = || {
            make_directory(&path, 0o755)?;
            // Whatever the umask of this process is.
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        };
        make().map_err(ImageError::io("make a directory to work in"))?;
        Ok(path)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), ImageError> {
        fs::write(self.path(name), content).map_err(ImageError::io("describe the image"))
    }

    /// Moves all of it to `place`. Answers whether nothing was there.
    pub(crate) fn publish(&self, place: &Path) -> Result<bool, ImageError> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(CWD, &self.directory, CWD, place, flags) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(errno) => Err(ImageError::io("publish what was made")(errno)),
        }
    }

    /// Waits until all that was written to the store is on the disk.
    pub(crate) fn flush(&self) -> Result<(), ImageError> {
        let step = "write the image to the disk";
        let directory = File::open(&self.directory).map_err(ImageError::io(step))?;
        rustix::fs::syncfs(directory).map_err(ImageError::io(step))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What cannot be removed now, the next opening of the store removes.
        let _ = remove_all(&self.directory);
    }
}

/// Puts a small file into place, whole or not at all; with `replace` also over another one.
/// Answers whether it is there now.
pub(crate) fn put_file(place: &Path, content: &[u8], replace: bool) -> io::Result<bool> {
    let directory = place.parent().unwrap_or(Path::new("."));
    let temporary = hidden(directory)?;
    let put = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        let flags = match replace {
            true => RenameFlags::empty(),
            false => RenameFlags::NOREPLACE,
        };
        match rustix::fs::renameat_with(CWD, &temporary, CWD, place, flags) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    };
    let result = put();
    if !matches!(result, Ok(true)) {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// How a record is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It stays as long as the answer lives. Waits for who is about to remove it.
    Shared,
    /// Nobody else holds it. Does not wait.
    Alone,
}

/// Opens a record and holds it. Nothing when it is not there, or when it cannot be had alone.
pub(crate) fn hold(path: &Path, hold: Hold) -> io::Result<Option<File>> {
    let until = Instant::now() + MOMENT;
    loop {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let operation = match hold {
            Hold::Shared => FlockOperation::NonBlockingLockShared,
            Hold::Alone => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&file, operation) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) if hold == Hold::Alone => return Ok(None),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        // It may have been moved away between opening and locking.
        let held = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if there.ino() == held.ino() && there.dev() == held.dev() => {
                return Ok(Some(file));
            }
            Ok(_) => {}
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What is in a directory.
pub(crate) fn children(directory: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let step = "read the image directory";
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(ImageError::io(step))? {
        found.push(entry.map_err(ImageError::io(step))?.path());
    }
    found.sort();
    Ok(found)
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// A path in a directory that nothing has yet.
fn hidden(directory: &Path) -> io::Result<PathBuf> {
    let mut random = [0_u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(directory.join(format!(".{:016x}", u64::from_ne_bytes(random))))
}

/// Takes a lock; it is held until the file is closed.
fn lock(path: &Path, operation: FlockOperation) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    rustix::fs::flock(&file, operation)?;
    Ok(file)
}

/// Removes a tree or a file; one that is gone already is success.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
