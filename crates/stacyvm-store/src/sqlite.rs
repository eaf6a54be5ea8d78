//! The SQLite side: opening, threads, statements. The only place that knows SQL.

pub(crate) mod migrate;
pub(crate) mod open;
pub(crate) mod quotas;
pub(crate) mod statements;
pub(crate) mod worker;

use rusqlite::ErrorCode;

use crate::StoreError;

/// What a failed statement means, without naming the file.
pub(crate) fn failed(step: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| {
        if no_space(&error) {
            StoreError::Full
        } else {
            StoreError::Failed {
                step,
                reason: error.to_string(),
            }
        }
    }
}

/// Whether the disk is full. Growing the shared-memory file fails with an input/output error of
/// its own instead of the usual code.
pub(crate) fn no_space(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return false;
    };
    failure.code == ErrorCode::DiskFull
        || failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
}

/// Whether the file is no database or a damaged one.
pub(crate) fn damaged(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}
