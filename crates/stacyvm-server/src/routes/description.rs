//! The description of the API, for programs and for people.
//!
//! The description holds no secret, so the page and the document that it reads need no key at the
//! root, where a browser has none; below `/api/v1` they need it like every route.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};

use crate::response::JSON;
use crate::state::SharedState;

/// Allows the server's own script, style and document, and no frame around the page.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; img-src data:; script-src 'self'; style-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Gives this description: OpenAPI 3.1.
///
/// `/openapi.json` gives the same and asks for no key; `/docs` is a page to read it.
#[utoipa::path(
    get, path = "/api/v1/openapi.json", tag = "system",
    responses(
        (
            status = 200,
            description = "The description.",
            body = Object,
            example = json!({"openapi": "3.1.0"}),
        ),
    ),
)]
pub(super) async fn document(State(state): State<SharedState>) -> Response {
    ([(CONTENT_TYPE, JSON)], state.document.clone()).into_response()
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, NOSNIFF),
    ];
    (headers, text).into_response()
}

pub(super) async fn page() -> Response {
    asset(
        "text/html; charset=utf-8",
        include_str!("../../page/docs.html"),
    )
}

pub(super) async fn style() -> Response {
    asset(
        "text/css; charset=utf-8",
        include_str!("../../page/docs.css"),
    )
}

pub(super) async fn script() -> Response {
    asset(
        "text/javascript; charset=utf-8",
        include_str!("../../page/docs.js"),
    )
}

/// Relative, so that it holds behind a proxy that puts the server below a path.
pub(super) async fn to_page() -> Response {
    let place = HeaderValue::from_static("../../docs");
    (StatusCode::PERMANENT_REDIRECT, [(LOCATION, place)]).into_response()
}
