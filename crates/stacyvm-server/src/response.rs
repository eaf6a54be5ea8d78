//! Answers of handlers: JSON, and bodies that are sent while they are made.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use stacyvm_types::{ExecId, StatusResponse};

/// The content type of JSON.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The content type of one JSON object a line.
pub(crate) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// An answer in compact JSON.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut bytes = Vec::with_capacity(512);
    serde_json::to_writer(&mut bytes, body).expect("our own answers are always JSON");
    (status, [(header::CONTENT_TYPE, JSON)], bytes).into_response()
}

/// Names the exec of a streamed answer.
const EXEC_ID: HeaderName = HeaderName::from_static("x-exec-id");

/// 200 with a JSON body.
pub(crate) fn ok(body: &impl Serialize) -> Response {
    json(StatusCode::OK, body)
}

/// 200 with `{"status": word}`, for routes that have nothing to show.
pub(crate) fn done(word: &'static str) -> Response {
    ok(&StatusResponse {
        status: Cow::Borrowed(word),
    })
}

/// A body that is sent while it is made; asks proxies neither to store nor to buffer it.
pub(crate) fn streamed(content_type: HeaderValue, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    (headers, body).into_response()
}

/// The output of a command as NDJSON, sent while the command runs.
pub(crate) fn exec_stream(exec_id: ExecId, body: Body) -> Response {
    let id = HeaderValue::from_str(&exec_id.to_string()).expect("an id is plain ASCII");
    let mut response = streamed(NDJSON, body);
    response.headers_mut().insert(EXEC_ID, id);
    response
}
