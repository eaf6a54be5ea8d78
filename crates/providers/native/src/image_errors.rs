//! The provider's errors for failures of the image store.

use stacyvm_image::ImageError;
use stacyvm_provider::ProviderError;

const PULL: &str = "pull the image";
const STORE: &str = "use the image store";

/// The error for a pull that failed. Failures of the registry are failures of the backend.
pub(crate) fn pull_failed(error: &ImageError) -> ProviderError {
    let message = error.to_string();
    match error {
        ImageError::Name { .. } => ProviderError::Invalid(message),
        ImageError::NotFound(_) | ImageError::Unknown { .. } | ImageError::Platform { .. } => {
            ProviderError::NotFound(message)
        }
        ImageError::Cancelled => ProviderError::Unavailable(message),
        // The causes are in the log already, under the pull's own line.
        _ => ProviderError::Backend {
            step: PULL,
            message,
            source: None,
        },
    }
}

/// The error for any other call that failed.
pub(crate) fn store_failed(error: ImageError) -> ProviderError {
    let message = error.to_string();
    match error {
        ImageError::Name { .. } | ImageError::Archive(_) | ImageError::Limit(_) => {
            ProviderError::Invalid(message)
        }
        // The client sent an archive with the wrong content.
        ImageError::Digest { .. } => ProviderError::Invalid(message),
        ImageError::NotFound(_) | ImageError::Unknown { .. } | ImageError::Platform { .. } => {
            ProviderError::NotFound(message)
        }
        ImageError::Exists(_) | ImageError::InUse(_) => ProviderError::Conflict(message),
        ImageError::Cancelled => ProviderError::Unavailable(message),
        other => ProviderError::backend(STORE, message, other),
    }
}
