//! The closed set of public errors.

use serde::{Deserialize, Serialize};

/// The kind of a failure, as a client sees it. The set is closed; HTTP statuses are mapped in
/// one place, in the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// The request is malformed.
    BadRequest,
    /// The API key is missing or wrong.
    Unauthorized,
    /// The key lacks the scope, or the host is refused.
    Forbidden,
    /// The resource of the request does not exist, or belongs to another owner.
    NotFound,
    /// The route exists, the method does not.
    MethodNotAllowed,
    /// A synchronous exec hit its deadline.
    Timeout,
    /// It exists already, or is not in a state for this.
    Conflict,
    /// The body or file is over the cap.
    PayloadTooLarge,
    /// The provider cannot do this.
    Unsupported,
    /// A quota, a limit or a queue refuses the request.
    ResourceLimit,
    /// The server itself failed.
    InternalError,
    /// The backend failed.
    ProviderError,
    /// Not healthy, not configured, or shutting down.
    Unavailable,
}

/// The body of every error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[error("{message}")]
pub struct ApiError {
    /// The kind of the failure.
    pub code: ErrorCode,
    /// What failed, and what helps if something does. Holds no host path and no secret.
    pub message: String,
}

impl ApiError {
    /// An error of this kind with this message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}
