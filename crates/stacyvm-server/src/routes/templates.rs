//! Templates, which this version does not have: none are listed and none are found.

use crate::error::{Failure, Reply};
use crate::openapi::shapes::EmptyList;
use crate::response::ok;

/// Lists the templates.
#[utoipa::path(
    get, path = "/api/v1/templates", tag = "templates",
    responses((status = 200, description = "The templates.", body = EmptyList)),
)]
pub(super) async fn list() -> Reply {
    Ok(ok(&[(); 0]))
}

pub(super) async fn refuse() -> Failure {
    Failure::not_found("templates are not part of this version")
}
