//! Making, finding and ending sandboxes.

use std::num::NonZeroUsize;

use axum::Extension;
use axum::extract::State;
use http::{HeaderMap, HeaderName, StatusCode};
use stacyvm_orchestrator::{Caller, ListFilter};
use stacyvm_types::{
    Admission, ExtendRequest, ListSandboxesQuery, LogsQuery, OwnerId, PruneResult, Sandbox,
    SandboxId, SandboxStats, SpawnRequest, StatusResponse,
};

use crate::body::Json;
use crate::error::{Failure, Reply};
use crate::limiter::Principal;
use crate::log_stream;
use crate::openapi::failures::{
    AdmissionErrors, DestroyErrors, JsonBodyErrors, NotFoundErrors, SandboxErrors, SpawnErrors,
    UnavailableErrors,
};
use crate::openapi::shapes::NdjsonLines;
use crate::owner::RequestCaller;
use crate::query::Query;
use crate::response::{NDJSON, done, json, ok, streamed};
use crate::state::SharedState;
use crate::target::{RawTarget, Target};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_KEY_BYTES: usize = 255;
const DEFAULT_LINES: usize = 100;

/// Makes a sandbox and waits until it runs.
///
/// Every field is optional. The same `Idempotency-Key` within 24 hours gives the same sandbox.
#[utoipa::path(
    post, path = "/api/v1/sandboxes", tag = "sandboxes",
    params(
        (
            "Idempotency-Key" = Option<String>,
            Header,
            min_length = 1,
            max_length = 255,
            description = "1 to 255 printable ASCII characters.",
        ),
    ),
    request_body = SpawnRequest,
    responses(
        (status = 201, description = "It runs.", body = Sandbox),
        SpawnErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn spawn(
    State(state): State<SharedState>,
    RequestCaller(caller): RequestCaller,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    Json(request): Json<SpawnRequest>,
) -> Reply {
    state
        .limiter
        .spawn(who, owner_of_spawn(&caller, &request).as_ref())?;
    let key = idempotency_key(&headers)?;
    let sandbox = state.orchestrator.spawn(&caller, request, key).await?;
    Ok(json(StatusCode::CREATED, &sandbox))
}

/// The owner that the sandbox will have, if it is a valid one; an invalid one is refused by the
/// orchestrator.
fn owner_of_spawn(caller: &Caller, request: &SpawnRequest) -> Option<OwnerId> {
    let named = || request.owner_id.as_deref()?.parse().ok();
    caller.owner.clone().or_else(named)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= MAX_KEY_BYTES => Ok(Some(key)),
        _ => Err(Failure::bad_request(
            "an Idempotency-Key has 1 to 255 printable ASCII characters",
        )),
    }
}

/// Says whether a spawn would be accepted now. Nothing is made.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/admission", tag = "sandboxes",
    request_body = SpawnRequest,
    responses(
        (status = 200, description = "Whether, and why not.", body = Admission),
        AdmissionErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn admission(
    State(state): State<SharedState>,
    RequestCaller(caller): RequestCaller,
    Json(request): Json<SpawnRequest>,
) -> Reply {
    Ok(ok(&state.orchestrator.admission(&caller, request).await?))
}

/// Lists living sandboxes, newest first.
#[utoipa::path(
    get, path = "/api/v1/sandboxes", tag = "sandboxes",
    params(ListSandboxesQuery),
    responses((status = 200, description = "The sandboxes.", body = Vec<Sandbox>)),
)]
pub(super) async fn list(
    State(state): State<SharedState>,
    RequestCaller(caller): RequestCaller,
    Query(query): Query<ListSandboxesQuery>,
) -> Reply {
    let filter = ListFilter {
        state: query.state,
        owner: query.owner.map(String::from),
        metadata: query.metadata,
    };
    Ok(ok(&state.orchestrator.list(&caller, filter).await?))
}

/// Destroys the sandboxes that have expired.
#[utoipa::path(
    delete, path = "/api/v1/sandboxes", tag = "sandboxes",
    responses((status = 200, description = "How many.", body = PruneResult), UnavailableErrors),
)]
pub(super) async fn prune(
    State(state): State<SharedState>,
    RequestCaller(caller): RequestCaller,
) -> Reply {
    let pruned = state.orchestrator.prune(&caller).await?;
    Ok(ok(&PruneResult { pruned }))
}

/// Shows one sandbox.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}", tag = "sandboxes",
    responses((status = 200, description = "The sandbox.", body = Sandbox), NotFoundErrors),
)]
pub(super) async fn get(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
) -> Reply {
    Ok(ok(&state.orchestrator.get(&caller, &id).await?))
}

/// Destroys a sandbox. When it answers, nothing of it runs.
///
/// Idempotent: an id that names no sandbox is answered in the same way.
#[utoipa::path(
    delete, path = "/api/v1/sandboxes/{id}", tag = "sandboxes",
    responses(
        (
            status = 200,
            description = "It is gone.",
            body = StatusResponse,
            example = json!({"status": "destroyed"}),
        ),
        DestroyErrors,
    ),
)]
pub(super) async fn destroy(
    State(state): State<SharedState>,
    RawTarget(id): RawTarget,
    RequestCaller(caller): RequestCaller,
) -> Reply {
    if let Ok(id) = id.parse::<SandboxId>() {
        state.orchestrator.destroy(&caller, &id).await?;
    }
    Ok(done("destroyed"))
}

/// Lets a sandbox live until now plus `ttl`, which may be sooner than before.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/extend", tag = "sandboxes",
    request_body = ExtendRequest,
    responses(
        (status = 200, description = "The sandbox.", body = Sandbox),
        SandboxErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn extend(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Json(ExtendRequest { ttl }): Json<ExtendRequest>,
) -> Reply {
    Ok(ok(&state.orchestrator.extend(&caller, &id, &ttl).await?))
}

/// Shows what a sandbox uses now.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/stats", tag = "sandboxes",
    responses((status = 200, description = "Its use.", body = SandboxStats), SandboxErrors),
)]
pub(super) async fn stats(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
) -> Reply {
    Ok(ok(&state.orchestrator.stats(&caller, &id).await?))
}

/// Shows the last lines of the console and of what commands printed, newest last.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/logs", tag = "sandboxes",
    params(LogsQuery),
    responses(
        (
            status = 200,
            description = "The lines.",
            content(
                (Vec<String> = "application/json", example = json!(["listening on :8000", "GET / 200"])),
                (NdjsonLines = "application/x-ndjson", example = "{\"line\":\"listening on :8000\"}\n"),
            ),
        ),
        SandboxErrors,
    ),
)]
pub(super) async fn logs(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Query(query): Query<LogsQuery>,
) -> Reply {
    let lines = query.lines.map_or(DEFAULT_LINES, NonZeroUsize::get);
    if query.follow == Some(true) {
        let logs = state.orchestrator.follow_logs(&caller, &id, lines).await?;
        return Ok(streamed(NDJSON, log_stream::body(logs, state.cut())));
    }
    Ok(ok(&state.orchestrator.logs(&caller, &id, lines).await?))
}
