//! The files in which account and certificate are stored.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::AcmeError;
use crate::private_file;

/// A certificate with its key as they are stored: in one file, so that they always belong together.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredCertificate {
    pub(super) directory: String,
    pub(super) domains: Vec<String>,
    pub(super) chain: String,
    pub(super) key: String,
}

/// Writes a file that only the server's user may read.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), AcmeError> {
    private_file::replace(path, bytes).map_err(|source| AcmeError::File {
        step: "write",
        path: path.to_owned(),
        source,
    })
}
