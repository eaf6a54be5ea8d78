//! What can go wrong with the store. Messages of `open` name the file, because the
//! server's operator reads them; those of later operations never do, because a client may.

use std::path::PathBuf;

/// A failed store operation.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system has no space left. Nothing committed before is lost, and writing works
    /// again as soon as there is space.
    #[error("the store cannot be written: no space left on its disk")]
    Full,
    /// The file is no database of ours, or is damaged.
    #[error(
        "store {}: {reason}; move the file away (sandboxes then are found by their provider and destroyed) or restore a copy", file.display()
    )]
    Corrupt {
        /// The database file.
        file: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// A newer program wrote it.
    #[error(
        "store {}: written by a newer stacyvm (schema {found}, this program knows {known}); run that version, or move the file away", file.display()
    )]
    Newer {
        /// The database file.
        file: PathBuf,
        /// The schema of the file.
        found: u32,
        /// The newest schema this program knows.
        known: u32,
    },
    /// Another server works on it.
    #[error(
        "store {}: in use by another stacyvm server; stop it, or give this one its own data directory", file.display()
    )]
    InUse {
        /// The database file.
        file: PathBuf,
    },
    /// It could not be opened.
    #[error("store {}: {step}: {reason}", file.display())]
    Open {
        /// The database file.
        file: PathBuf,
        /// The step that failed.
        step: &'static str,
        /// What the system or SQLite says.
        reason: String,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// Anything else.
    #[error("the store failed to {step}: {reason}")]
    Failed {
        /// The step that failed.
        step: &'static str,
        /// What SQLite says.
        reason: String,
    },
}
