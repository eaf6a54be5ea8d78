//! What a failure of the image store means to whoever asked.

use stacyvm_image::ImageError;
use stacyvm_provider::ProviderError;

const PULL: &str = "pull the image";
const STORE: &str = "use the image store";

/// Of a pull. Whatever its registry is to blame for is the backend's failure.
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

/// Of everything else.
pub(crate) fn store_failed(error: ImageError) -> ProviderError {
    let message = error.to_string();
    match error {
        ImageError::Name { .. } | ImageError::Archive(_) | ImageError::Limit(_) => {
            ProviderError::Invalid(message)
        }
        // An archive with the wrong content is the client's.
        ImageError::Digest { .. } => ProviderError::Invalid(message),
        ImageError::NotFound(_) | ImageError::Unknown { .. } | ImageError::Platform { .. } => {
            ProviderError::NotFound(message)
        }
        ImageError::Exists(_) | ImageError::InUse(_) => ProviderError::Conflict(message),
        ImageError::Cancelled => ProviderError::Unavailable(message),
        other => ProviderError::backend(STORE, message, other),
    }
}
