//! How far an import or a load is.

use serde::{Deserialize, Serialize};

use crate::ImageError;

/// How far an import or a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of the archive file read.
    pub read: u64,
    /// Bytes that it has.
    pub total: u64,
    /// Entries unpacked.
    pub entries: u64,
}

/// Called after each entry of an archive; its error ends the unpacking.
pub(crate) type OnProgress<'a> = dyn FnMut(Progress) -> Result<(), ImageError> + 'a;
