//! Whole directories as tar archives.
//!
//! PUT tells gzip from plain tar by how the body begins. GET answers plain tar, or tar.gz with
//! `?format=tar.gz`; `Accept-Encoding` is not looked at, so that what arrives is what was named.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use stacyvm_types::{ArchiveFormat, FileQuery, ReadArchiveQuery, StatusResponse};

use super::files::path;
use crate::download::ByteBody;
use crate::error::Reply;
use crate::openapi::failures::{FileBodyErrors, SandboxErrors};
use crate::openapi::shapes::TarArchive;
use crate::owner::RequestCaller;
use crate::query::Query;
use crate::response::done;
use crate::state::SharedState;
use crate::target::Target;
use crate::upload::{self, UploadKind};

/// Gives a whole directory as tar or tar.gz.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/files/archive", tag = "files", operation_id = "read_archive",
    params(ReadArchiveQuery),
    responses(
        (
            status = 200,
            description = "The archive.",
            content((TarArchive = "application/x-tar"), (TarArchive = "application/gzip")),
        ),
        SandboxErrors,
    ),
)]
pub(super) async fn read(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Query(query): Query<ReadArchiveQuery>,
) -> Reply {
    let path = path(&query.path)?;
    let packed = query.format.unwrap_or_default() == ArchiveFormat::TarGz;
    let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
    let mut data = sandbox.archive_out(path).await?;
    // What fails before the first byte can still be told properly.
    let first = data.next().await.transpose()?;
    let body = ByteBody::new(first, data, None, state.cut());
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
    params(FileQuery),
    request_body(
        description = "The content type is not looked at.",
        content(
            (TarArchive = "application/x-tar"),
            (TarArchive = "application/gzip"),
            (TarArchive = "application/octet-stream"),
        ),
    ),
    responses(
        (
            status = 200,
            description = "Done.",
            body = StatusResponse,
            example = json!({"status": "written"}),
        ),
        SandboxErrors,
        FileBodyErrors,
    ),
)]
pub(super) async fn write(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Query(query): Query<FileQuery>,
    request: Request,
) -> Reply {
    let path = path(&query.path)?;
    let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
    let (parts, body) = request.into_parts();
    let limit = state.file_limit;
    upload::feed(&parts.headers, body, limit, UploadKind::Archive, |data| {
        sandbox.archive_in(path, data)
    })
    .await?;
    Ok(done("written"))
}
