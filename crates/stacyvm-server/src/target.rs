//! The sandbox that a path names.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use stacyvm_types::SandboxId;

use crate::error::Failure;

/// The sandbox that the `{id}` of a path names.
pub(crate) struct Target(pub(crate) SandboxId);

/// The `{id}` or `{name}` of a path as it came in.
pub(crate) struct RawTarget(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for RawTarget {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(text)| Self(text))
            .map_err(|_| Failure::not_found("the path has a part that is not UTF-8"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let RawTarget(id) = RawTarget::from_request_parts(parts, state).await?;
        sandbox_id(id).map(Self)
    }
}

/// An id as it stands in a path; one that cannot be is answered as one that is not there.
pub(crate) fn sandbox_id(text: String) -> Result<SandboxId, Failure> {
    SandboxId::try_from(text).map_err(|_| {
        Failure::not_found(
            "sandbox not found: an id is \"sb-\" and 8 lower-case hexadecimal digits",
        )
    })
}
