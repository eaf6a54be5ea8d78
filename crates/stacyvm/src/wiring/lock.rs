//! One process for each data directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::failure::hinted;

/// Held as long as the directory is ours; the kernel gives it back when the process ends, however
/// it ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock of `directory`; none when another process holds it.
    pub(crate) fn try_take(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join("lock");
        let mut file = open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        // Only for the message to a second process; the lock itself is the kernel's.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Some(Self { _file: file }))
    }

    /// Waits for the lock: for work that is over in a moment.
    pub(crate) fn wait(directory: &Path) -> Result<Self> {
        let path = directory.join("lock");
        let file = open(&path)?;
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { _file: file })
    }

    /// Takes the lock, or says who has it.
    pub(crate) fn take(directory: &Path) -> Result<Self> {
        if let Some(lock) = Self::try_take(directory)? {
            return Ok(lock);
        }
        let mut holder = String::new();
        // Without the number the message is still true.
        let _ = open(&directory.join("lock")).and_then(|mut file| {
            file.read_to_string(&mut holder)
                .context("cannot read the lock")
        });
        Err(hinted(
            format!(
                "the data directory {} is used by another server{}",
                directory.display(),
                if holder.is_empty() {
                    String::new()
                } else {
                    format!(" (process {holder})")
                }
            ),
            "stop that server, or give this one a directory of its own with --data-dir",
        ))
    }
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_hears_who_was_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = DirectoryLock::take(directory.path()).expect("the first");
        let refused = DirectoryLock::take(directory.path()).expect_err("the second");
        assert!(
            refused
                .to_string()
                .contains(&std::process::id().to_string()),
            "{refused}"
        );
        drop(first);
        DirectoryLock::take(directory.path()).expect("after the first is gone");
    }
}
