//! Files of a sandbox. Paths are checked for form only: what they mean is decided inside.

use std::num::NonZeroU32;

use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, StatusCode};
use stacyvm_orchestrator::{ReadRange, WriteOptions};
use stacyvm_types::{
    ChangeModeRequest, DeleteFileQuery, FileInfo, FileMode, FileQuery, GlobQuery, ListFilesQuery,
    MakeDirectoryRequest, MoveFileRequest, StatusResponse, WriteFileQuery, WriteFileRequest,
};

use crate::body::Json;
use crate::download::ByteBody;
use crate::error::{Failure, Reply};
use crate::openapi::failures::{FileBodyErrors, JsonBodyErrors, RangeErrors, SandboxErrors};
use crate::openapi::shapes::FileContent;
use crate::owner::RequestCaller;
use crate::query::Query;
use crate::range::ByteRange;
use crate::response::{done, ok};
use crate::state::SharedState;
use crate::target::Target;
use crate::upload::{self, UploadKind};

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
/// The kernel's own limit (PATH_MAX).
const MAX_PATH: usize = 4096;

/// A path's form: there, no NUL, not too long.
pub(super) fn path(text: &str) -> Result<&str, Failure> {
    if text.is_empty() {
        return Err(Failure::bad_request("the path is empty"));
    }
    if text.contains('\0') {
        return Err(Failure::bad_request("the path has a NUL character"));
    }
    if text.len() >= MAX_PATH {
        return Err(Failure::bad_request("the path is longer than 4095 bytes"));
    }
    Ok(text)
}

fn options(mode: Option<&str>) -> Result<WriteOptions, Failure> {
    Ok(WriteOptions {
        mode: mode.map_or(Ok(FileMode::FILE), str::parse)?,
        parents: true,
    })
}

/// Whether the body is the content itself: its type is bytes, or the path is in the query and the
/// type is not JSON.
fn is_raw(headers: &HeaderMap, query: &WriteFileQuery) -> bool {
    let named = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let named = named.and_then(|text| text.split(';').next()).map(str::trim);
    let is = |name: &str| named.is_some_and(|named| named.eq_ignore_ascii_case(name));
    is("application/octet-stream") || (query.path.is_some() && !is("application/json"))
}

/// Writes a file, all of it or nothing.
///
/// As JSON, or as the bytes themselves with `path` and `mode` in the query. Missing directories
/// are made.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/files", tag = "files",
    params(WriteFileQuery),
    request_body(
        content(
            (WriteFileRequest = "application/json"),
            (FileContent = "application/octet-stream"),
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
    Query(query): Query<WriteFileQuery>,
    request: Request,
) -> Reply {
    if !is_raw(request.headers(), &query) {
        let Json(body) = Json::<WriteFileRequest>::from_request(request, &state).await?;
        let options = options(body.mode.as_deref())?;
        let content = decode(body.content, body.encoding.as_deref())?;
        let path = path(&body.path)?;
        let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
        let (headers, content) = (HeaderMap::new(), Body::from(content));
        upload::feed(&headers, content, u64::MAX, UploadKind::Plain, |data| {
            sandbox.write(path, options, data)
        })
        .await?;
        return Ok(done("written"));
    }
    let Some(text) = &query.path else {
        return Err(Failure::bad_request("the query parameter path is missing"));
    };
    let path = path(text)?;
    let options = options(query.mode.as_deref())?;
    let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
    let (parts, body) = request.into_parts();
    let limit = state.file_limit;
    upload::feed(&parts.headers, body, limit, UploadKind::Plain, |data| {
        sandbox.write(path, options, data)
    })
    .await?;
    Ok(done("written"))
}

fn decode(content: String, encoding: Option<&str>) -> Result<Bytes, Failure> {
    match encoding {
        None | Some("" | "utf-8" | "utf8") => Ok(content.into()),
        Some("base64") => STANDARD
            .decode(content)
            .map(Bytes::from)
            .map_err(|_| Failure::bad_request("the content is not valid base64")),
        Some(_) => Err(Failure::bad_request("the encodings are utf-8 and base64")),
    }
}

/// Gives the bytes of a file. Links are followed.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/files", tag = "files",
    params(
        FileQuery,
        (
            "Range" = Option<String>,
            Header,
            description = "One range of bytes (RFC 9110); anything else is ignored.",
            example = "bytes=0-99",
        ),
    ),
    responses(
        (
            status = 200,
            description = "The file.",
            body = FileContent,
            content_type = "application/octet-stream",
        ),
        (
            status = 206,
            description = "The asked part of it.",
            body = FileContent,
            content_type = "application/octet-stream",
            headers(("Content-Range" = String, description = "Which part of how much.")),
        ),
        SandboxErrors,
        RangeErrors,
    ),
)]
pub(super) async fn read(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Query(query): Query<FileQuery>,
    headers: HeaderMap,
) -> Reply {
    let path = path(&query.path)?;
    let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
    let Some(asked) = ByteRange::of(&headers) else {
        let mut file = sandbox.read(path, ReadRange::default()).await?;
        let first = file.data.next().await.transpose()?;
        // Files that the kernel makes up have no size and still content.
        let known = file.info.size > 0 || first.is_none();
        let length = known.then_some(file.info.size);
        if let Some(bytes) = &first
            && Some(bytes.len() as u64) == length
        {
            return Ok(contents(StatusCode::OK, Body::from(bytes.clone())));
        }
        let body = ByteBody::new(first, file.data, length, state.cut());
        return Ok(contents(StatusCode::OK, Body::new(body)));
    };
    // The end of a range is known only with the size, so that is asked for where it matters.
    let range = match asked {
        ByteRange::From(first, last) => ReadRange {
            offset: first,
            length: last.map(|last| last.saturating_sub(first).saturating_add(1)),
        },
        ByteRange::Last(_) => ReadRange {
            offset: 0,
            length: Some(0),
        },
    };
    let mut file = sandbox.read(path, range).await?;
    let size = file.info.size;
    let Some((offset, length)) = asked.within(size) else {
        return Ok(unsatisfiable(size));
    };
    if matches!(asked, ByteRange::Last(_)) {
        let range = ReadRange {
            offset,
            length: Some(length),
        };
        file = sandbox.read(path, range).await?;
    }
    let body = ByteBody::new(None, file.data, Some(length), state.cut());
    let mut response = contents(StatusCode::PARTIAL_CONTENT, Body::new(body));
    let range = format!("bytes {offset}-{}/{size}", offset + length - 1);
    response
        .headers_mut()
        .insert(CONTENT_RANGE, header_of(&range));
    Ok(response)
}

fn header_of(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits are a valid header")
}

fn contents(status: StatusCode, body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, OCTETS),
        (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (X_CONTENT_TYPE_OPTIONS, NOSNIFF),
    ];
    (status, headers, body).into_response()
}

/// 416 is no failure of the closed set: the client asked for bytes that are not there.
fn unsatisfiable(size: u64) -> Response {
    let failure = Failure::bad_request("the file has no byte in the asked range");
    let mut response = failure.into_response();
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    response
        .headers_mut()
        .insert(CONTENT_RANGE, header_of(&format!("bytes */{size}")));
    response
}

/// Deletes a file, or a directory with all that is in it.
#[utoipa::path(
    delete, path = "/api/v1/sandboxes/{id}/files", tag = "files",
    params(DeleteFileQuery),
    responses(
        (
            status = 200,
            description = "Done.",
            body = StatusResponse,
            example = json!({"status": "deleted"}),
        ),
        SandboxErrors,
    ),
)]
pub(super) async fn remove(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Query(query): Query<DeleteFileQuery>,
) -> Reply {
    let path = path(&query.path)?;
    let recursive = query.recursive == Some(true);
    let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
    sandbox.remove(path, recursive).await?;
    Ok(done("deleted"))
}

/// Lists a directory, sorted by name.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/files/list", tag = "files",
    params(ListFilesQuery),
    responses((status = 200, description = "What is in it.", body = Vec<FileInfo>), SandboxErrors),
)]
pub(super) async fn list(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Query(query): Query<ListFilesQuery>,
) -> Reply {
    let path = path(query.path.as_deref().unwrap_or("/"))?;
    let depth = query.depth.map_or(1, NonZeroU32::get);
    let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
    Ok(ok(&sandbox.list(path, depth).await?))
}

/// Shows one file, directory or link.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/files/stat", tag = "files",
    params(FileQuery),
    responses((status = 200, description = "What it is.", body = FileInfo), SandboxErrors),
)]
pub(super) async fn stat(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Query(query): Query<FileQuery>,
) -> Reply {
    let path = path(&query.path)?;
    let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
    Ok(ok(&sandbox.stat(path).await?))
}

/// Finds paths by a pattern: `*`, `?`, `[]`, `{a,b}`, `**`.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/files/glob", tag = "files",
    params(GlobQuery),
    responses(
        (
            status = 200,
            description = "Absolute paths.",
            body = Vec<String>,
            example = json!(["/workspace/main.py"]),
        ),
        SandboxErrors,
    ),
)]
pub(super) async fn glob(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Query(query): Query<GlobQuery>,
) -> Reply {
    let pattern = path(&query.pattern)?;
    let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
    Ok(ok(&sandbox.glob(pattern).await?))
}

/// Moves a file or directory. Missing directories on the way to its new place are made.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/files/move", tag = "files",
    request_body = MoveFileRequest,
    responses(
        (
            status = 200,
            description = "Done.",
            body = StatusResponse,
            example = json!({"status": "moved"}),
        ),
        SandboxErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn rename(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Json(body): Json<MoveFileRequest>,
) -> Reply {
    let (from, to) = (path(&body.old_path)?, path(&body.new_path)?);
    let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
    sandbox.rename(from, to).await?;
    Ok(done("moved"))
}

/// Sets permission bits.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/files/chmod", tag = "files",
    request_body = ChangeModeRequest,
    responses(
        (
            status = 200,
            description = "Done.",
            body = StatusResponse,
            example = json!({"status": "chmod applied"}),
        ),
        SandboxErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn chmod(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Json(body): Json<ChangeModeRequest>,
) -> Reply {
    let (path, mode) = (path(&body.path)?, body.mode.parse()?);
    let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
    sandbox.chmod(path, mode).await?;
    Ok(done("chmod applied"))
}

/// Makes a directory and those above it.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/files/mkdir", tag = "files",
    request_body = MakeDirectoryRequest,
    responses(
        (
            status = 200,
            description = "Done.",
            body = StatusResponse,
            example = json!({"status": "created"}),
        ),
        SandboxErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn mkdir(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Json(body): Json<MakeDirectoryRequest>,
) -> Reply {
    let path = path(&body.path)?;
    let mode = body.mode.as_deref();
    let mode = mode.map_or(Ok(FileMode::DIRECTORY), str::parse)?;
    let sandbox = state.orchestrator.sandbox(&caller, &id).await?;
    sandbox.mkdir(path, mode).await?;
    Ok(done("created"))
}
