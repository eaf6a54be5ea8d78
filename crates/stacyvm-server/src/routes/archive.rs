//! Whole directories at once, as tar.
//!
//! PUT tells gzip from plain tar by how the body begins. GET answers plain tar, or tar.gz with
//! `?format=tar.gz`; `Accept-Encoding` is not looked at, so that what arrives is what was named.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::files::path;
use super::{Done, done};
use crate::download::ByteBody;
use crate::error::{Failure, Reply};
use crate::front::Shared;
use crate::openapi::{Archive, FileBody, InSandbox};
use crate::owner::Asker;
use crate::query::Query;
use crate::target::Target;
use crate::upload::{self, Kind};

/// Gives a whole directory as tar or tar.gz.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/files/archive", tag = "files", operation_id = "read_archive",
    params(
        ("path" = String, Query, min_length = 1, max_length = 4095, description = "The directory."),
        ("format" = Option<String>, Query, description = "`tar`, the default, or `tar.gz`."),
    ),
    responses(
        (
            status = 200,
            description = "The archive.",
            content((Archive = "application/x-tar"), (Archive = "application/gzip")),
        ),
        InSandbox,
    ),
)]
pub(super) async fn read(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
    query: Query,
) -> Reply {
    let path = path(query.required("path")?)?;
    let packed = match query.get("format")? {
        None | Some("tar") => false,
        Some("tar.gz" | "tgz") => true,
        Some(_) => return Err(Failure::bad_request("the formats are tar and tar.gz")),
    };
    let sandbox = front.orchestrator.sandbox(&caller, &id).await?;
    let mut data = sandbox.archive_out(path).await?;
    // What fails before the first byte can still be told properly.
    let first = data.next().await.transpose()?;
    let body = ByteBody::new(first, data, None, front.cut());
    let (body, kind) = if packed {
        (body.gzipped(), "application/gzip")
    } else {
        (body, "application/x-tar")
    };
    let kind = [(CONTENT_TYPE, HeaderValue::from_static(kind))];
    Ok((kind, Body::new(body)).into_response())
}

/// Unpacks a tar or tar.gz into a directory, which is made when it is not there.
///
/// Entries that would leave it are refused.
#[utoipa::path(
    put, path = "/api/v1/sandboxes/{id}/files/archive", tag = "files", operation_id = "write_archive",
    params(
        ("path" = String, Query, min_length = 1, max_length = 4095, description = "The directory."),
    ),
    request_body(
        description = "The content type is not looked at.",
        content(
            (Archive = "application/x-tar"),
            (Archive = "application/gzip"),
            (Archive = "application/octet-stream"),
        ),
    ),
    responses(
        (status = 200, description = "Done.", body = Done, example = json!({"status": "written"})),
        InSandbox,
        FileBody,
    ),
)]
pub(super) async fn write(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
    query: Query,
    request: Request,
) -> Reply {
    let path = path(query.required("path")?)?;
    let sandbox = front.orchestrator.sandbox(&caller, &id).await?;
    let (parts, body) = request.into_parts();
    let limit = front.file_limit;
    upload::feed(&parts.headers, body, limit, Kind::Archive, |data| {
        sandbox.archive_in(path, data)
    })
    .await?;
    Ok(done("written"))
}
