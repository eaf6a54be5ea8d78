//! The files of the store's directory, and which locks protect them.
//!
//! ```text
//! <store>/.lock                            locked, shared, while something is made or removed
//! <store>/.oci/layers/<hex>/layer.json     a layer, by its diff id; locked, shared, by its users
//!                          /flushed        present when its files are on the disk
//!                          /tree/          its files
//! <store>/.oci/images/<hex>/image.json     an image, by its id; locked, shared, by its users
//!                          /config.json    its configuration as it came
//!                          /top/           its topmost layer, made here
//! <store>/.oci/names/<hex>                 which image a name stands for, by the name's digest
//! <store>/.oci/partial/<hex>               a compressed layer that is being fetched; locked meanwhile
//! <store>/.oci/locks/<hex>                 locked while the layer of this diff id is made
//! <store>/.oci/making/<random>/            becomes a layer or an image by one rename
//! <store>/.oci/trash/<random>/             removed things, until their files are gone
//! <store>/<name>/                          an image of the store's former format
//! ```
//! A process that may not mark layers for mounts by root has `.oci-user` instead of `.oci`. Its
//! rule: what lies in `layers`, `images` and `names` is whole; what lies in `making`, `trash`
//! and `locks` while no process holds `.lock` is left over from a crash.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use super::files::{list_directory, make_directory, remove_all, unused_path};
use super::locks::lock_file;
use crate::overlay::OverlayAttributes;
use crate::{Digest, ImageError};

/// Beginnings of names that a cut import of the store's former format left.
const FORMER_LEFTOVERS: [&str; 2] = [".import-", ".trash-"];
/// How long a part of a compressed layer is kept for the next attempt to fetch it.
const MAX_PARTIAL_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many bytes of such parts are kept; the oldest go first.
const MAX_PARTIAL_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// How often a layer's lock is tried while another process holds it.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);

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
        // Other users of the host may not read images.
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
        layout.remove_leftovers()?;
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

    /// The directory in which things are made before they are published.
    pub(super) fn making(&self) -> PathBuf {
        self.root.join("making")
    }

    /// Locks the store for making or removing something in it, until the answer is dropped. Several
    /// processes may hold it; while one does, no other takes what is being made for leftovers.
    pub(crate) fn lock_for_change(&self) -> Result<File, ImageError> {
        lock_file(&self.store.join(".lock"), FlockOperation::LockShared)
            .map_err(ImageError::io("lock the image directory"))
    }

    /// Waits until no other thread or process makes this layer, and keeps them from it until the
    /// answer is dropped. `waiting` is called once when there is a wait; an error of `check` ends it.
    pub(crate) fn lock_layer(
        &self,
        diff_id: Digest,
        waiting: &mut dyn FnMut(),
        check: &dyn Fn() -> Result<(), ImageError>,
    ) -> Result<File, ImageError> {
        let path = self.root.join("locks").join(diff_id.hex());
        let mut reported = false;
        loop {
            check()?;
            match lock_file(&path, FlockOperation::NonBlockingLockExclusive) {
                Ok(file) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(ImageError::io("lock a layer")(error)),
            }
            if !reported {
                waiting();
                reported = true;
            }
            thread::sleep(LOCK_POLL_INTERVAL);
        }
    }

    /// Moves something into the trash, so that it vanishes at once, and removes it there.
    pub(crate) fn discard(&self, path: &Path) -> io::Result<()> {
        let trash = unused_path(&self.root.join("trash"))?;
        match fs::rename(path, &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        remove_all(&trash)
    }

    /// Removes what crashes left, unless a process makes or removes something now. What cannot be
    /// removed is left for the next time: it does no harm.
    fn remove_leftovers(&self) -> Result<(), ImageError> {
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let _lock = match lock_file(&self.store.join(".lock"), exclusive) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(ImageError::io("lock the image directory")(error)),
        };
        for part in ["making", "trash", "locks"] {
            for path in list_directory(&self.root.join(part))? {
                let _ = remove_all(&path);
            }
        }
        for path in list_directory(&self.names())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // A name that was not written to its end.
            if name.starts_with('.') {
                let _ = remove_all(&path);
            }
        }
        for path in list_directory(&self.store)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if FORMER_LEFTOVERS.iter().any(|kind| name.starts_with(kind)) {
                let _ = remove_all(&path);
            }
        }
        self.remove_partials(MAX_PARTIAL_AGE, MAX_PARTIAL_BYTES)
            .map(|_| ())
    }

    /// Removes parts of compressed layers that are old or too many, but for those that are being
    /// fetched. Answers how many bytes that were.
    pub(crate) fn remove_partials(&self, age: Duration, bytes: u64) -> Result<u64, ImageError> {
        let mut found: Vec<(SystemTime, u64, PathBuf)> = list_directory(&self.partials())?
            .into_iter()
            .filter_map(|path| {
                let metadata = path.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), path))
            })
            .collect();
        // The youngest first: they are kept.
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
