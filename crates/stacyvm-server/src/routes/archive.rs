//! Whole directories at once, as tar.
//!
//! PUT tells gzip from plain tar by how the body begins. GET answers plain tar, or tar.gz with
//! `?format=tar.gz`; `Accept-Encoding` is not looked at, so that what arrives is what was named.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::done;
use super::files::{op_failure, path, upload_failure};
use crate::download::ByteBody;
use crate::error::{Failure, Reply};
use crate::front::Shared;
use crate::owner::Asker;
use crate::query::Query;
use crate::target::Target;
use crate::upload::{self, Kind};

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
    let failure = op_failure(&front, &id);
    let mut data = sandbox.archive_out(path).await.map_err(&failure)?;
    // What fails before the first byte can still be told properly.
    let first = data.recv().await.transpose().map_err(&failure)?;
    let body = ByteBody::new(first, data, None, front.cut());
    let (body, kind) = if packed {
        (body.gzipped(), "application/gzip")
    } else {
        (body, "application/x-tar")
    };
    let kind = [(CONTENT_TYPE, HeaderValue::from_static(kind))];
    Ok((kind, Body::new(body)).into_response())
}

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
    .await
    .map_err(|error| upload_failure(&front, &id, error))?;
    Ok(done("written"))
}
