//! Errors that name an entry of an archive.

use rustix::io::Errno;
use stacyvm_tar::NameError;

use crate::ImageError;

/// How many characters of an entry's name an error shows.
const MAX_SHOWN: usize = 80;

/// An error that names an entry of the archive.
pub(super) fn archive_error(shown: &str, reason: &str) -> ImageError {
    let shown: String = shown.chars().take(MAX_SHOWN).collect();
    ImageError::Archive(format!("archive entry {shown:?} {reason}"))
}

/// The error for an entry's name that cannot be one.
pub(super) fn name_error(name: &[u8], error: NameError) -> ImageError {
    let reason = match error {
        NameError::Absolute => "is absolute and would leave the image".to_owned(),
        NameError::ParentDirectory => format!("{error} and would leave the image"),
        NameError::NulByte | NameError::TooDeep => error.to_string(),
    };
    archive_error(&String::from_utf8_lossy(name), &reason)
}

/// What the kernel's answer means: failures that the archive caused name its entry, the others are
/// the system's.
pub(super) fn explain(errno: Errno, shown: &str) -> ImageError {
    let reason = match errno {
        Errno::LOOP | Errno::XDEV => "goes through a link",
        Errno::NOTDIR => "goes through a file that is no directory",
        Errno::NOENT => "links to an entry that is not there",
        Errno::NAMETOOLONG => "has a name that is too long",
        Errno::MLINK => "is one link too many to its file",
        Errno::PERM => "cannot be made like this",
        other => return ImageError::io("unpack the archive")(other),
    };
    archive_error(shown, reason)
}
