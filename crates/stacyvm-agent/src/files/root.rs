//! Resolution of paths below the sandbox's root.
//!
//! This module owns every call that follows a link. The rule: the kernel resolves, by `openat2`
//! with `RESOLVE_IN_ROOT`, and the next call works on the descriptor that it gave, so that nothing
//! swapped in between can lead outside.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use stacyvm_sys::resolve;
pub(super) use stacyvm_sys::resolve::open_beneath;

/// The root directory of a sandbox.
#[derive(Debug)]
pub(super) struct Root {
    directory: OwnedFd,
    /// `/proc/self/fd`, held open so that nothing mounted or renamed later can stand in for it.
    own_descriptors: Option<OwnedFd>,
}

impl Root {
    pub(super) fn new(directory: OwnedFd) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self {
            directory,
            own_descriptors: rustix::fs::open("/proc/self/fd", flags, Mode::empty()).ok(),
        }
    }

    /// Opens `path` (relative to the root), following links inside the root.
    pub(super) fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        resolve::open(
            &self.directory,
            path,
            flags,
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Opens the directory `path`, so that names in it can be worked on.
    pub(super) fn directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Opens the directory `path` and makes what is missing of it.
    pub(super) fn make_directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        match self.directory(path) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut parent = self.directory(".")?;
        let ends = path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain(std::iter::once(path.len()));
        for end in ends {
            let prefix = &path[..end];
            let name = prefix.rsplit('/').next().unwrap_or(prefix);
            if name.is_empty() {
                continue;
            }
            parent = match self.directory(prefix) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                    self.directory(prefix)?
                }
                other => other?,
            };
        }
        Ok(parent)
    }

    /// Changes the permission bits of what `file` (any descriptor, `O_PATH` too) refers to.
    ///
    /// `fchmod` refuses `O_PATH` descriptors and opening a file for real asks for more rights than
    /// its owner may have, so the way leads over the descriptor's own name under `/proc`.
    pub(super) fn chmod(&self, file: &OwnedFd, bits: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(bits);
        match &self.own_descriptors {
            Some(descriptors) => {
                let name = file.as_raw_fd().to_string();
                rustix::fs::chmodat(descriptors, name, mode, AtFlags::empty())
            }
            None => rustix::fs::fchmod(file, mode),
        }
    }
}
