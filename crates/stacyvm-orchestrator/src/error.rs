//! The public failure of every orchestrator operation: a closed set of codes, a message that a
//! client may read, and a cause that goes to the log only.

use std::time::Duration;

use stacyvm_provider::ProviderError;
use stacyvm_provider::ops::OpError;
use stacyvm_store::StoreError;
use stacyvm_types::{ErrorCode, SandboxId};

/// What a paused sandbox answers, behind its name.
pub(crate) const PAUSED: &str =
    "is paused: its processes were stopped outside of StacyVM; resume them there, or destroy it";

/// A cause for the log.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation failed. `Display` is the public message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// There is no such thing, it is destroyed, or it is another owner's.
    #[error("{0}")]
    NotFound(String),
    /// Nothing listens on the port inside.
    #[error("{0}")]
    NothingListens(String),
    /// A synchronous exec hit its deadline; the message starts `exec timeout:`.
    #[error("{0}")]
    Timeout(String),
    /// It exists already, or is not in a state for this.
    #[error("{0}")]
    Conflict(String),
    /// The provider cannot do this; the message names the capability.
    #[error("{0}")]
    Unsupported(String),
    /// A quota or limit said no.
    #[error("{0}")]
    ResourceLimit(String),
    /// There is no room now; later there may be.
    #[error("{message}")]
    Full {
        /// What is full.
        message: String,
        /// When it is worth asking again.
        retry_after: Duration,
    },
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The backend failed.
    #[error("provider {provider}: {message}")]
    Provider {
        /// The name of the provider.
        provider: String,
        /// What happened, fit for a client.
        message: String,
        /// The cause, for the log.
        #[source]
        source: Option<Source>,
    },
    /// Not healthy, not configured, or shutting down.
    #[error("{0}")]
    Unavailable(String),
    /// Our fault.
    #[error("{message}")]
    Internal {
        /// What happened, fit for a client.
        message: String,
        /// The cause, for the log.
        #[source]
        source: Option<Source>,
    },
}

impl Error {
    /// The public code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BadRequest(_) => ErrorCode::BadRequest,
            Self::NotFound(_) | Self::NothingListens(_) => ErrorCode::NotFound,
            Self::Timeout(_) => ErrorCode::Timeout,
            Self::Conflict(_) => ErrorCode::Conflict,
            Self::Unsupported(_) => ErrorCode::Unsupported,
            Self::ResourceLimit(_) | Self::Full { .. } => ErrorCode::ResourceLimit,
            Self::Forbidden(_) => ErrorCode::Forbidden,
            Self::Provider { .. } => ErrorCode::ProviderError,
            Self::Unavailable(_) => ErrorCode::Unavailable,
            Self::Internal { .. } => ErrorCode::InternalError,
        }
    }

    /// What a failed provider call means to a client.
    pub(crate) fn from_provider(provider: &str, error: ProviderError) -> Self {
        match error {
            ProviderError::NotFound(message) => Self::NotFound(message),
            ProviderError::Invalid(message) => Self::BadRequest(message),
            ProviderError::Unsupported(message) => Self::Unsupported(message),
            ProviderError::Conflict(message) => Self::Conflict(message),
            ProviderError::Limit(message) => Self::ResourceLimit(message),
            ProviderError::Unavailable(message) => {
                Self::Unavailable(format!("provider {provider}: {message}"))
            }
            ProviderError::Backend {
                step,
                message,
                source,
            } => Self::Provider {
                provider: provider.to_owned(),
                message: format!("{step}: {message}"),
                source,
            },
        }
    }

    /// What a failed operation inside a sandbox means to a client that cannot be told more of
    /// what became of the sandbox.
    pub(crate) fn from_op(provider: &str, error: OpError) -> Self {
        match error {
            OpError::NotFound(message) => Self::NotFound(message),
            OpError::Invalid(message) | OpError::Denied(message) => Self::BadRequest(message),
            OpError::Conflict(message) => Self::Conflict(message),
            OpError::Limit(message) => Self::ResourceLimit(message),
            OpError::Unsupported(message) => Self::Unsupported(message),
            OpError::Gone(_) => Self::Provider {
                provider: provider.to_owned(),
                message: "the sandbox does not answer".to_owned(),
                source: Some(Box::new(error)),
            },
            OpError::Failed(_) => Self::Provider {
                provider: provider.to_owned(),
                message: "the operation failed inside the sandbox".to_owned(),
                source: Some(Box::new(error)),
            },
        }
    }

    pub(crate) fn shutting_down() -> Self {
        Self::Unavailable("the server is shutting down".to_owned())
    }

    pub(crate) fn no_sandbox(id: &SandboxId) -> Self {
        Self::NotFound(format!("sandbox {:?} not found", id.as_str()))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::Unavailable(error.to_string()),
            StoreError::Closed => Self::shutting_down(),
            other => Self::Internal {
                message: "the store failed".to_owned(),
                source: Some(Box::new(other)),
            },
        }
    }
}

/// Why the orchestrator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be read.
    #[error("load the store")]
    Store(#[source] StoreError),
    /// There is nothing to make sandboxes with.
    #[error("no provider is configured")]
    NoProvider,
    /// Two providers have one name.
    #[error("provider {0:?} is configured twice")]
    DuplicateProvider(String),
    /// The default names none of them.
    #[error("the default provider {name:?} is not configured; configured are {configured}")]
    UnknownDefault {
        /// What was asked for.
        name: String,
        /// What there is.
        configured: String,
    },
}
