//! The owner that a request names in the `X-User-ID` header.

use axum::extract::FromRequestParts;
use http::HeaderName;
use http::request::Parts;
use stacyvm_orchestrator::Caller;

use crate::error::Failure;

pub(crate) const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// The caller of a request. A header that is absent or blank names no owner.
pub(crate) struct RequestCaller(pub(crate) Caller);

impl<S: Sync> FromRequestParts<S> for RequestCaller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let mut sent = parts.headers.get_all(USER_ID).iter();
        let first = sent.next();
        if sent.next().is_some() {
            return Err(Failure::bad_request(
                "there is more than one X-User-ID header",
            ));
        }
        let mut caller = Caller::default();
        if let Some(value) = first {
            let text = std::str::from_utf8(value.as_bytes())
                .map_err(|_| Failure::bad_request("the X-User-ID header is not UTF-8"))?;
            if !text.trim().is_empty() {
                caller.owner = Some(text.parse()?);
            }
        }
        Ok(Self(caller))
    }
}
