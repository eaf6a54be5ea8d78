//! Why a preview is not answered by what runs inside.
//!
//! Owns the kinds, their statuses and words; how they look is [`pages`](crate::pages)' affair.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;
use stacyvm_orchestrator::Error;
use stacyvm_types::ErrorCode;

/// What happened, as the header `X-StacyVM-Preview-Error` and the page's form say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing listened on the port within the wait, nor ever before.
    NotStarted,
    /// Something listened, and does no more.
    Closed,
    /// There is no such sandbox, or not any more.
    Gone,
    /// The sandbox is there, but does not run (yet, or any more).
    NotRunning,
    /// Too many connections.
    Busy,
    /// The request names a preview in a way that cannot be.
    Refused,
    /// The request is malformed.
    Malformed,
    /// The visitor may not see it.
    Forbidden,
    /// What listens did not answer as it should.
    Broken,
    /// The server stops.
    Stopping,
}

impl Kind {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::NotStarted => "not-started",
            Self::Closed => "closed",
            Self::Gone => "gone",
            Self::NotRunning => "not-running",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::Forbidden => "forbidden",
            Self::Broken => "broken",
            Self::Stopping => "stopping",
        }
    }

    /// The code that the API's clients know.
    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            Self::NotStarted | Self::Closed | Self::Busy | Self::Stopping => ErrorCode::Unavailable,
            Self::Gone | Self::Refused => ErrorCode::NotFound,
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
            Self::Gone | Self::Refused => StatusCode::NOT_FOUND,
            Self::NotRunning => StatusCode::CONFLICT,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Broken => StatusCode::BAD_GATEWAY,
        }
    }

    /// When it is worth asking again.
    pub(crate) const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::NotStarted | Self::Closed => Some(Duration::from_secs(2)),
            Self::Busy => Some(Duration::from_secs(5)),
            Self::Stopping => Some(Duration::from_secs(10)),
            _ => None,
        }
    }
}

/// A preview that is not answered by what runs inside.
#[derive(Clone, Debug)]
pub struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: Cow<'static, str>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The visitor may not see this preview; `message` says what would help.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Forbidden, message)
    }

    /// The request is malformed.
    pub fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Malformed, message)
    }

    /// There is nothing of this name.
    pub fn refused(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Refused, message)
    }

    pub(crate) fn broken(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Broken, message)
    }

    pub(crate) fn stopping() -> Self {
        Self::new(Kind::Stopping, "the server is shutting down")
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::NotFound(_) => Kind::Gone,
            Error::Conflict(_) => Kind::NotRunning,
            Error::Unavailable(_) => Kind::Stopping,
            Error::ResourceLimit(_) => Kind::Busy,
            // Which provider failed is nothing for a visitor.
            Error::Provider { message, .. } => return Self::broken(message),
            _ => Kind::Broken,
        };
        Self::new(kind, error.to_string())
    }
}
