//! Why a request to a registry failed, and whether it is worth another attempt.

use std::time::Duration;

use crate::ImageError;

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The same request may succeed after a pause; the registry may have said how long.
    Temporary(ImageError, Option<Duration>),
    /// The same request will fail again.
    Permanent(ImageError),
    /// The registry does not send the blob from the byte that was asked for.
    Range,
}
