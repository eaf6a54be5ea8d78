//! How an archive is unpacked, and how large it may be.

use crate::overlay::OverlayAttributes;

/// How large an image may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 * 1024 * 1024 * 1024,
            entries: 4_000_000,
        }
    }
}

/// What the archive is unpacked as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArchiveKind {
    /// One layer of an image: whiteouts hide what lower layers have.
    Layer,
    /// A whole root file system: an absolute name is refused, and so is an archive of images.
    RootFileSystem,
}

/// How an archive is unpacked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnpackOptions {
    pub(crate) limits: Limits,
    pub(crate) overlay: OverlayAttributes,
    pub(crate) kind: ArchiveKind,
}
