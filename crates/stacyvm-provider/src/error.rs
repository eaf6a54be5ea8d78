//! What can go wrong between us and a backend.

/// A failed provider operation. `message` may be shown to a client; `detail` is for the log only.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The image or box does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The spec makes no sense for this backend.
    #[error("{0}")]
    Invalid(String),
    /// The backend cannot do what the spec asks; names the capability.
    #[error("{0}")]
    Unsupported(String),
    /// It is there already, or is used and cannot be taken away now.
    #[error("{0}")]
    Conflict(String),
    /// A limit of the backend or machine is reached.
    #[error("{0}")]
    Limit(String),
    /// The backend is not there or not healthy.
    #[error("{0}")]
    Unavailable(String),
    /// The backend failed at `step`.
    #[error("{step}: {message}")]
    Backend {
        /// The step that failed, in words a person understands: `mount the overlay`.
        step: &'static str,
        /// What happened, without host paths.
        message: String,
        /// The cause, for the log.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl ProviderError {
    /// A failed step whose cause goes to the log.
    pub fn backend(
        step: &'static str,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Backend {
            step,
            message: message.into(),
            source: Some(source.into()),
        }
    }
}
