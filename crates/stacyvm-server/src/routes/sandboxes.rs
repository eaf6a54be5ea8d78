//! Making, finding and ending sandboxes.

use axum::Extension;
use axum::extract::State;
use http::{HeaderMap, HeaderName, StatusCode};
use serde::{Deserialize, Serialize};
use stacyvm_orchestrator::{Caller, ListFilter};
use stacyvm_types::{
    Admission, OwnerId, Sandbox, SandboxId, SandboxState, SandboxStats, SpawnRequest,
};
use utoipa::ToSchema;

use super::{Done, NDJSON, done, json, ok, streamed};
use crate::body::Json;
use crate::error::{Failure, Reply};
use crate::follow;
use crate::front::Shared;
use crate::limiter::Principal;
use crate::openapi::{Destroying, InSandbox, JsonBody, Lines, NoSuch, NotNow, Planning, Spawning};
use crate::owner::Asker;
use crate::query::Query;
use crate::target::{RawTarget, Target};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_KEY: usize = 255;
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
    responses((status = 201, description = "It runs.", body = Sandbox), Spawning, JsonBody),
)]
pub(super) async fn spawn(
    State(front): State<Shared>,
    Asker(caller): Asker,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    Json(request): Json<SpawnRequest>,
) -> Reply {
    front
        .limiter
        .spawn(who, spawns_for(&caller, &request).as_ref())?;
    let key = idempotency_key(&headers)?;
    let sandbox = front.orchestrator.spawn(&caller, request, key).await?;
    Ok(json(StatusCode::CREATED, &sandbox))
}

/// Whose sandbox it will be, if the name is one; what is wrong with it is said later.
fn spawns_for(caller: &Caller, request: &SpawnRequest) -> Option<OwnerId> {
    let named = || request.owner_id.as_deref()?.parse().ok();
    caller.owner.clone().or_else(named)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= MAX_KEY => Ok(Some(key)),
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
        Planning,
        JsonBody,
    ),
)]
pub(super) async fn admission(
    State(front): State<Shared>,
    Asker(caller): Asker,
    Json(request): Json<SpawnRequest>,
) -> Reply {
    Ok(ok(&front.orchestrator.admission(&caller, request).await?))
}

/// Lists living sandboxes, newest first.
#[utoipa::path(
    get, path = "/api/v1/sandboxes", tag = "sandboxes",
    params(
        ("state" = Option<SandboxState>, Query, description = "Only those in this state."),
        ("owner" = Option<OwnerId>, Query, description = "Only those of this owner."),
        (
            "metadata.KEY" = Option<String>,
            Query,
            description = "Only those whose label KEY, any name, has this value.",
        ),
    ),
    responses((status = 200, description = "The sandboxes.", body = Vec<Sandbox>)),
)]
pub(super) async fn list(State(front): State<Shared>, Asker(caller): Asker, query: Query) -> Reply {
    let filter = filter(&query)?;
    Ok(ok(&front.orchestrator.list(&caller, filter).await?))
}

fn filter(query: &Query) -> Result<ListFilter, Failure> {
    let mut filter = ListFilter::default();
    if let Some(state) = query.get("state")? {
        let state = state.parse().map_err(|()| {
            Failure::bad_request(
                "the states are creating, running, paused, stopped, error and destroyed",
            )
        })?;
        filter.state = Some(state);
    }
    if let Some(owner) = query.get("owner")? {
        filter.owner = Some(owner.parse::<OwnerId>()?.into());
    }
    for (key, value) in query.pairs() {
        if let Some(label) = key.strip_prefix("metadata.") {
            filter.metadata.insert(label.to_owned(), value.to_owned());
        }
    }
    Ok(filter)
}

#[derive(Serialize, ToSchema)]
struct Pruned {
    /// How many were destroyed.
    pruned: u64,
}

/// Destroys the sandboxes that have expired.
#[utoipa::path(
    delete, path = "/api/v1/sandboxes", tag = "sandboxes",
    responses((status = 200, description = "How many.", body = Pruned), NotNow),
)]
pub(super) async fn prune(State(front): State<Shared>, Asker(caller): Asker) -> Reply {
    let pruned = front.orchestrator.prune(&caller).await?;
    Ok(ok(&Pruned { pruned }))
}

/// Shows one sandbox.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}", tag = "sandboxes",
    responses((status = 200, description = "The sandbox.", body = Sandbox), NoSuch),
)]
pub(super) async fn get(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
) -> Reply {
    Ok(ok(&front.orchestrator.get(&caller, &id).await?))
}

/// Destroys a sandbox. When it answers, nothing of it runs.
///
/// Idempotent: what never was is as gone as what no longer is.
#[utoipa::path(
    delete, path = "/api/v1/sandboxes/{id}", tag = "sandboxes",
    responses(
        (
            status = 200,
            description = "It is gone.",
            body = Done,
            example = json!({"status": "destroyed"}),
        ),
        Destroying,
    ),
)]
pub(super) async fn destroy(
    State(front): State<Shared>,
    RawTarget(id): RawTarget,
    Asker(caller): Asker,
) -> Reply {
    if id.parse::<SandboxId>().is_ok() {
        front.orchestrator.destroy(&caller, &id).await?;
    }
    Ok(done("destroyed"))
}

#[derive(Deserialize, ToSchema)]
pub(super) struct Extend {
    /// How long from now; a Go duration over zero.
    ttl: String,
}

/// Lets a sandbox live until now plus `ttl`, which may be sooner than before.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/extend", tag = "sandboxes",
    request_body = Extend,
    responses((status = 200, description = "The sandbox.", body = Sandbox), InSandbox, JsonBody),
)]
pub(super) async fn extend(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
    Json(Extend { ttl }): Json<Extend>,
) -> Reply {
    Ok(ok(&front.orchestrator.extend(&caller, &id, &ttl).await?))
}

/// Shows what a sandbox uses now.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/stats", tag = "sandboxes",
    responses((status = 200, description = "Its use.", body = SandboxStats), InSandbox),
)]
pub(super) async fn stats(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
) -> Reply {
    Ok(ok(&front.orchestrator.stats(&caller, &id).await?))
}

/// Shows the last lines of the console and of what commands printed, newest last.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/logs", tag = "sandboxes",
    params(
        (
            "lines" = Option<u32>,
            Query,
            minimum = 1,
            description = "How many lines; 100 when absent.",
        ),
        (
            "follow" = Option<bool>,
            Query,
            description = "Whether to go on with what comes, as NDJSON of `{\"line\":…}`; \
                `{\"skipped\":BYTES}` tells a slow reader what it missed.",
        ),
    ),
    responses(
        (
            status = 200,
            description = "The lines.",
            content(
                (Vec<String> = "application/json", example = json!(["listening on :8000", "GET / 200"])),
                (Lines = "application/x-ndjson", example = "{\"line\":\"listening on :8000\"}\n"),
            ),
        ),
        InSandbox,
    ),
)]
pub(super) async fn logs(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
    query: Query,
) -> Reply {
    let lines = query.positive::<usize>("lines")?.unwrap_or(DEFAULT_LINES);
    if query.switch("follow")? {
        let logs = front.orchestrator.follow_logs(&caller, &id, lines).await?;
        return Ok(streamed(NDJSON, follow::body(logs, front.cut())));
    }
    Ok(ok(&front.orchestrator.logs(&caller, &id, lines).await?))
}
