//! Locks on files, by which several processes share a store.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::files::is_missing;

/// How long a record's lock is waited for; a process that removes something holds it but briefly.
const RECORD_LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How a record is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockMode {
    /// What it describes stays as long as the lock is held. Waits while a process is about to remove
    /// it.
    Shared,
    /// No one else has a lock on it. Does not wait.
    Exclusive,
}

/// Opens a record and locks it until the file is closed. None when it is not there, or when another
/// lock is in the way.
pub(crate) fn lock_record(path: &Path, mode: LockMode) -> io::Result<Option<File>> {
    let until = Instant::now() + RECORD_LOCK_TIMEOUT;
    loop {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let operation = match mode {
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&file, operation) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) if mode == LockMode::Exclusive => return Ok(None),
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

/// Opens a file, makes it when it is missing, and locks it until it is closed.
pub(crate) fn lock_file(path: &Path, operation: FlockOperation) -> io::Result<File> {
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
