//! What every request passes on its way in and out, in one place and in this order: request id
//! and span, host, origin, key or ticket, rate, route, headers of the answer, log line.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{Method, StatusCode};
use stacyvm_orchestrator::Orchestrator;
use stacyvm_preview::access::Access;
use stacyvm_types::ErrorCode;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::Instrument;

use crate::cors::{self, Origin, OriginRule};
use crate::error::Failure;
use crate::host::HostRule;
use crate::limiter::Limiter;
use crate::request_id::{self, RequestId};
use crate::tickets::Tickets;
use crate::traffic::Traffic;
use crate::{Secret, ServerSettings, body, routes};

/// What handlers share.
pub(crate) type Shared = Arc<Front>;

/// The front door's own state.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) version: String,
    pub(crate) json_limit: usize,
    pub(crate) file_limit: u64,
    pub(crate) image_limit: u64,
    pub(crate) heartbeat: Duration,
    pub(crate) started: Instant,
    pub(crate) key: Option<Secret>,
    pub(crate) tickets: Tickets,
    pub(crate) limiter: Limiter,
    pub(crate) traffic: Traffic,
    pub(crate) access: Option<Arc<Access>>,
    hosts: HostRule,
    origins: OriginRule,
    cut: CancellationToken,
}

impl Front {
    /// Resolves when bodies that are still being sent must end.
    pub(crate) fn cut(&self) -> WaitForCancellationFutureOwned {
        self.cut.clone().cancelled_owned()
    }

    /// Whether a request may come in at all; `Some` is an answer that needs no route.
    fn admit(&self, request: &mut Request, origin: &Origin) -> Result<Option<Response>, Failure> {
        if self.key.is_none() {
            self.hosts.check(request)?;
        }
        if cors::is_preflight(request) {
            return Ok(Some(cors::preflight(origin)));
        }
        self.let_in(request, origin)?;
        Ok(None)
    }
}

/// Every route of the server. Bodies that are being sent when `cut` is cancelled break off.
pub fn router(
    orchestrator: Orchestrator,
    settings: ServerSettings,
    cut: CancellationToken,
) -> Router {
    let front = Arc::new(Front {
        orchestrator,
        hosts: HostRule::new(&settings.allowed_hosts, &settings.preview_domain),
        origins: OriginRule::new(&settings.cors_allowed_origins),
        version: settings.version,
        json_limit: settings.json_limit,
        file_limit: settings.file_limit,
        image_limit: settings.image_limit,
        heartbeat: settings.event_heartbeat,
        started: Instant::now(),
        traffic: Traffic::default(),
        access: settings.access,
        key: settings.api_key.filter(|key| !key.expose().is_empty()),
        tickets: Tickets::new(settings.ticket_life),
        limiter: Limiter::new(&settings.rates),
        cut,
    });
    routes::all()
        .into_router()
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(front.clone(), pass))
        .with_state(front)
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

async fn pass(State(front): State<Shared>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let origin = front.origins.judge(&request);
    // An error span, because it must be there for every line, whatever level is logged.
    let span = tracing::error_span!(
        "request",
        request_id = id.as_str(),
        method = method.as_str(),
        route = route.as_ref().map_or("none", MatchedPath::as_str),
    );
    let passing = front.traffic.enter();
    let mut response = async {
        let answering = AssertUnwindSafe(answer(&front, request, &origin, next)).catch_unwind();
        let response = answering.await.unwrap_or_else(|_| {
            // The panic hook has said where.
            Failure::internal("a handler panicked").into_response()
        });
        log(&method, response.status(), started);
        response
    }
    .instrument(span)
    .await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    passing.answered(route, &method, response.status(), started.elapsed());
    let headers = response.headers_mut();
    headers.insert(request_id::HEADER, id.into_header());
    cors::stamp(origin, headers);
    response
}

async fn answer(front: &Front, request: Request, origin: &Origin, next: Next) -> Response {
    let mut request = match body::settle(request).await {
        Ok(request) => request,
        Err(failure) => return failure.into_response(),
    };
    match front.admit(&mut request, origin) {
        Ok(None) => next.run(request).await,
        Ok(Some(response)) => response,
        Err(failure) => failure.into_response(),
    }
}

/// One line a request: reads are many and change nothing, so they are for debugging.
fn log(method: &Method, status: StatusCode, started: Instant) {
    let latency_ms = started.elapsed().as_secs_f64() * 1000.0;
    let status = status.as_u16();
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        tracing::debug!(status, latency_ms, "request answered");
    } else {
        tracing::info!(status, latency_ms, "request answered");
    }
}
