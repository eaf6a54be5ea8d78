//! Why a preview is not answered by the sandbox.
//!
//! Owns the kinds of failure, their statuses and codes; [`pages`](crate::pages) owns how they look.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;
use stacyvm_orchestrator::Error;
use stacyvm_types::ErrorCode;

/// The kind of a failure. It is the value of the header `X-StacyVM-Preview-Error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Nothing listens on the port yet.
    NotStarted,
    /// A server listened on the port, and does not any more.
    Closed,
    /// The sandbox does not exist, or does not any more.
    Gone,
    /// The sandbox does not exist, or it is not shown.
    Hidden,
    /// The client address asked for too much that is not there.
    Throttled,
    /// The sandbox exists, but does not run now.
    NotRunning,
    /// The sandbox has too many connections.
    Busy,
    /// The request names a preview that cannot exist.
    Refused,
    /// The request is malformed.
    Malformed,
    /// The client may not open the preview.
    Forbidden,
    /// The server in the sandbox did not answer as a web server does.
    Broken,
    /// The StacyVM server is shutting down.
    Stopping,
}

impl FailureKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "not-started",
            Self::Closed => "closed",
            Self::Gone => "gone",
            Self::Hidden => "hidden",
            Self::Throttled => "throttled",
            Self::NotRunning => "not-running",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Forbidden => "forbidden",
            Self::Broken => "broken",
            Self::Stopping => "stopping",
        }
    }

    /// The error code that clients of the API know.
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::NotStarted | Self::Closed | Self::Busy | Self::Stopping => ErrorCode::Unavailable,
            Self::Gone | Self::Hidden | Self::Refused => ErrorCode::NotFound,
            Self::Throttled => ErrorCode::ResourceLimit,
            Self::NotRunning => ErrorCode::Conflict,
            Self::Malformed => ErrorCode::BadRequest,
            Self::Forbidden => ErrorCode::Forbidden,
            Self::Broken => ErrorCode::ProviderError,
        }
    }

    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::NotStarted | Self::Closed | Self::Busy | Self::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Gone | Self::Hidden | Self::Refused => StatusCode::NOT_FOUND,
            Self::Throttled => StatusCode::TOO_MANY_REQUESTS,
            Self::NotRunning => StatusCode::CONFLICT,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Broken => StatusCode::BAD_GATEWAY,
        }
    }

    /// When the client should try again.
    pub(crate) const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::NotStarted | Self::Closed => Some(Duration::from_secs(2)),
            Self::Busy => Some(Duration::from_secs(5)),
            Self::Throttled => Some(Duration::from_secs(30)),
            Self::Stopping => Some(Duration::from_secs(10)),
            _ => None,
        }
    }
}

/// A preview that is not answered by the sandbox.
#[derive(Clone, Debug)]
pub struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: Cow<'static, str>,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The client may not open this preview; `message` says what would help.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FailureKind::Forbidden, message)
    }

    /// The request is malformed.
    pub fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FailureKind::Malformed, message)
    }

    /// The request names a preview that does not exist.
    pub fn refused(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FailureKind::Refused, message)
    }

    /// There is nothing that this client is shown, for whatever reason.
    pub(crate) fn hidden() -> Self {
        Self::new(
            FailureKind::Hidden,
            "nothing is shown here: the sandbox does not exist, or its preview is private; ask for a \
             link with POST /api/v1/sandboxes/{id}/preview, or with \"stacyvm preview url\"; by path and \
             by header it opens with the header X-StacyVM-Preview-Token",
        )
    }

    pub(crate) fn broken(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FailureKind::Broken, message)
    }

    pub(crate) fn stopping() -> Self {
        Self::new(FailureKind::Stopping, "the server is shutting down")
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::NotFound(_) => FailureKind::Gone,
            Error::Conflict(_) => FailureKind::NotRunning,
            Error::Unavailable(_) => FailureKind::Stopping,
            Error::ResourceLimit(_) => FailureKind::Busy,
            // The client is not told which provider failed.
            Error::Provider { message, .. } => return Self::broken(message),
            _ => FailureKind::Broken,
        };
        Self::new(kind, error.to_string())
    }
}
