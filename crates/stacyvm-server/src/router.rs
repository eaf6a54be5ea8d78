//! The way of every request, in and out, in one place and in this order: request id and span,
//! host, origin, key or ticket, rate, body, route, headers of the answer, log line.
//!
//! A request that is refused before the route is refused on its head alone: the body is not waited
//! for, and a client that holds it back is not asked for it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::CONNECTION;
use http::{HeaderValue, Method, StatusCode, Version};
use stacyvm_orchestrator::Orchestrator;
use stacyvm_types::ErrorCode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::auth;
use crate::body;
use crate::cors::{self, Origin};
use crate::error::Failure;
use crate::openapi;
use crate::paced_body::PacedBody;
use crate::request_id::{self, RequestId};
use crate::routes;
use crate::settings::ServerSettings;
use crate::state::{ServerState, SharedState};

/// Every route of the server. Bodies that are being sent when `cut` is cancelled break off; what
/// goes on behind an answer is one of `tasks`.
pub fn router(
    orchestrator: Orchestrator,
    settings: ServerSettings,
    cut: CancellationToken,
    tasks: TaskTracker,
) -> Router {
    let document = || openapi::document(routes::all()).to_string().into();
    let state = ServerState::new(orchestrator, settings, document, cut, tasks);
    let state = Arc::new(state);
    routes::all()
        .into_router()
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(state.clone(), handle))
        .with_state(state)
}

/// Checks whether a request may come in at all; `Some` is an answer that needs no route.
fn admit(
    state: &ServerState,
    request: &mut Request,
    origin: &Origin,
) -> Result<Option<Response>, Failure> {
    if state.key.is_none() {
        state.hosts.check(request)?;
    }
    if cors::is_preflight(request) {
        return Ok(Some(cors::preflight(origin)));
    }
    auth::authenticate(state, request, origin)?;
    Ok(None)
}

async fn unknown_route() -> Failure {
    Failure::not_found("there is no such route")
}

async fn wrong_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        // The router adds `Allow`, which is all that was asked for.
        return StatusCode::NO_CONTENT.into_response();
    }
    Failure::new(
        ErrorCode::MethodNotAllowed,
        "the route exists, but not for this method",
    )
    .into_response()
}

async fn handle(State(state): State<SharedState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let origin = state.origins.judge(&request);
    // An error span is there for every line, whatever level is logged.
    let span = tracing::error_span!(
        "request",
        request_id = id.as_str(),
        method = method.as_str(),
        route = route.as_ref().map_or("none", MatchedPath::as_str),
    );
    let in_flight = state.http_metrics.begin();
    let mut response = async {
        let answering = AssertUnwindSafe(answer(&state, request, &origin, next)).catch_unwind();
        let response = answering.await.unwrap_or_else(|_| {
            // The panic hook has logged the place.
            Failure::internal("a handler panicked").into_response()
        });
        log(&method, response.status(), started);
        response
    }
    .instrument(span)
    .await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    in_flight.answered(route, &method, response.status(), started.elapsed());
    let headers = response.headers_mut();
    headers.insert(request_id::HEADER, id.into_header());
    cors::stamp(origin, headers);
    response
}

async fn answer(
    state: &ServerState,
    mut request: Request,
    origin: &Origin,
    next: Next,
) -> Response {
    match admit(state, &mut request, origin) {
        Ok(None) => {}
        Ok(Some(response)) => return turn_away(state, request, response),
        Err(failure) => return turn_away(state, request, failure.into_response()),
    }
    let pace = state.body_pace;
    let request = request.map(|body| match body.is_end_stream() {
        true => body,
        false => Body::new(PacedBody::new(body, pace)),
    });
    match body::buffer_small(request).await {
        Ok(request) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

/// Answers a request without its body. What the client sends of it nevertheless is read behind the
/// answer and dropped, within bounds: a connection that closes over unread bytes is reset, and the
/// client might not see the answer.
fn turn_away(state: &ServerState, request: Request, mut response: Response) -> Response {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return response;
    }
    if !body::is_held_back(&parts.headers) {
        state.tasks.spawn(body::drain(body));
    } else if parts.version < Version::HTTP_2 {
        // Neither side can tell whether the body still comes.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// Logs one line for each request. Reads are frequent and change nothing, so their level is debug.
fn log(method: &Method, status: StatusCode, started: Instant) {
    let latency_ms = started.elapsed().as_secs_f64() * 1000.0;
    let status = status.as_u16();
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        tracing::debug!(status, latency_ms, "request answered");
    } else {
        tracing::info!(status, latency_ms, "request answered");
    }
}
