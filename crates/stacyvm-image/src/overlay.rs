//! How overlayfs marks in a layer that something of the layers below is hidden.
//!
//! A whiteout is a character device 0/0 in place of what is hidden; an opaque directory has an
//! extended attribute. Which attribute depends on the mount: only one with full privileges looks at
//! `trusted.`, and only a process that has them can set it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;
use stacyvm_sys::resolve::open_beneath;

/// Which extended attributes mark directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OverlayAttributes {
    /// `trusted.overlay.`, for mounts by root.
    Trusted,
    /// `user.overlay.`, for mounts with `userxattr` in a user namespace.
    User,
}

impl OverlayAttributes {
    /// The attributes that this process may set in the file system of a directory.
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let directory = File::open(directory)?;
        let name = "trusted.stacyvm.probe";
        match rustix::fs::fsetxattr(&directory, name, b"y", XattrFlags::empty()) {
            Ok(()) => {
                // Left behind it would do no harm.
                let _ = rustix::fs::fremovexattr(&directory, name);
                Ok(Self::Trusted)
            }
            Err(_) => Ok(Self::User),
        }
    }

    fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }

    /// Marks the directory `name` in `parent` so that what the layers below have in it is hidden.
    pub(crate) fn set_opaque(self, parent: &OwnedFd, name: impl AsRef<Path>) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = open_beneath(parent, name.as_ref(), flags)?;
        rustix::fs::fsetxattr(&directory, self.opaque(), b"y", XattrFlags::empty())
    }

    /// Whether a directory, opened for reading, hides what is below.
    pub(crate) fn is_opaque(self, directory: impl AsFd) -> bool {
        let mut value = [0_u8; 1];
        let read = rustix::fs::fgetxattr(directory, self.opaque(), &mut value[..]);
        read == Ok(1) && value == *b"y"
    }
}

/// Makes a whiteout. Nothing is there under this name.
pub(crate) fn make_whiteout(directory: &OwnedFd, name: impl AsRef<Path>) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0);
    rustix::fs::mknodat(directory, name.as_ref(), FileType::CharacterDevice, mode, 0)
}

/// Whether this is a whiteout. Archives make no other devices.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
