//! The one mapping of failures to HTTP.
//!
//! What a client sees is a code, its status and a message without host paths or secrets. The
//! cause of a failure that is not the client's goes to the log, under the request's id.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use stacyvm_orchestrator::Error as OrchestratorError;
use stacyvm_types::{ErrorCode, ParseIdError, ParseModeError};

/// The result of a handler.
pub(crate) type Reply = Result<Response, Failure>;

/// A request that cannot be answered as asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ErrorCode,
    message: Cow<'static, str>,
    /// The time until a further try makes sense.
    retry_after: Option<Duration>,
    /// For the log only.
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
            cause: None,
        }
    }

    /// A rate or limit is exceeded; `wait` is the time until a further try makes sense.
    pub(crate) fn limited(message: impl Into<Cow<'static, str>>, wait: Duration) -> Self {
        Self {
            retry_after: Some(wait),
            ..Self::new(ErrorCode::ResourceLimit, message)
        }
    }

    /// There is no room for the request now, and soon will be.
    pub(crate) fn busy(message: &'static str) -> Self {
        Self {
            retry_after: Some(Duration::from_secs(5)),
            ..Self::new(ErrorCode::Unavailable, message)
        }
    }

    pub(crate) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub(crate) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    pub(crate) fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Forbidden, message)
    }

    pub(crate) fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::PayloadTooLarge, message)
    }

    pub(crate) fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            code: ErrorCode::InternalError,
            message: "internal error, the server's log has the detail under this request's id"
                .into(),
            retry_after: None,
            cause: Some(cause.into()),
        }
    }

    /// The code and message for the client; the cause goes to the log.
    pub(crate) fn into_parts(self) -> (ErrorCode, Cow<'static, str>) {
        self.log();
        (self.code, self.message)
    }

    fn log(&self) {
        match (&self.cause, self.code) {
            (Some(cause), ErrorCode::Unavailable) => {
                tracing::warn!(cause = %Chain(cause.as_ref()), "request refused");
            }
            (Some(cause), _) => {
                tracing::error!(cause = %Chain(cause.as_ref()), "request failed");
            }
            (None, _) => {}
        }
    }

    #[cfg(test)]
    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }

    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

/// The status of a code.
pub(crate) const fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::Timeout => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::ResourceLimit => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::ProviderError => StatusCode::BAD_GATEWAY,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The body, borrowed; `stacyvm_types::ApiError` is its owned twin.
#[derive(Serialize)]
struct ErrorBody<'a> {
    code: ErrorCode,
    message: &'a str,
}

/// An error and what caused it, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn StdError + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.log();
        let body = ErrorBody {
            code: self.code,
            message: &self.message,
        };
        let body = serde_json::to_vec(&body).expect("two texts are always JSON");
        let json = HeaderValue::from_static("application/json");
        let headers = [(header::CONTENT_TYPE, json)];
        let mut response = (status(self.code), headers, body).into_response();
        if let Some(wait) = self.retry_after {
            // Whole seconds, never so few that the next try comes too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let seconds = HeaderValue::from(seconds.max(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

impl From<OrchestratorError> for Failure {
    fn from(error: OrchestratorError) -> Self {
        let code = error.code();
        let retry_after = match &error {
            OrchestratorError::Full { retry_after, .. } => Some(*retry_after),
            _ => None,
        };
        Self {
            code,
            retry_after,
            message: error.to_string().into(),
            cause: status(code)
                .is_server_error()
                .then(|| Box::new(error).into()),
        }
    }
}

impl From<ParseModeError> for Failure {
    fn from(error: ParseModeError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<ParseIdError> for Failure {
    fn from(error: ParseIdError) -> Self {
        Self::bad_request(error.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_status_of_the_contract() {
        for (code, expected) in [
            (ErrorCode::BadRequest, 400),
            (ErrorCode::Unauthorized, 401),
            (ErrorCode::Forbidden, 403),
            (ErrorCode::NotFound, 404),
            (ErrorCode::MethodNotAllowed, 405),
            (ErrorCode::Timeout, 408),
            (ErrorCode::Conflict, 409),
            (ErrorCode::PayloadTooLarge, 413),
            (ErrorCode::Unsupported, 422),
            (ErrorCode::ResourceLimit, 429),
            (ErrorCode::InternalError, 500),
            (ErrorCode::ProviderError, 502),
            (ErrorCode::Unavailable, 503),
        ] {
            assert_eq!(status(code).as_u16(), expected, "{code:?}");
        }
    }

    #[test]
    fn a_cause_stays_out_of_the_message() {
        let cause = || Some("open /var/lib/stacyvm/boxes/x: EIO".into());
        for error in [
            OrchestratorError::Internal {
                message: "the store failed".to_owned(),
                source: cause(),
            },
            OrchestratorError::Provider {
                provider: "native".to_owned(),
                message: "mount the overlay: no space left".to_owned(),
                source: cause(),
            },
        ] {
            let failure = Failure::from(error);
            assert!(!failure.message().contains("/var/lib"), "{failure:?}");
            assert!(failure.cause.is_some());
        }
        let failure = Failure::internal("open /var/lib/stacyvm/x");
        assert!(!failure.message().contains("/var/lib"), "{failure:?}");
    }
}
