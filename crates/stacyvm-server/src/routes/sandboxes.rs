//! Making, finding and ending sandboxes.

use axum::Extension;
use axum::extract::State;
use http::{HeaderMap, HeaderName, StatusCode};
use serde::{Deserialize, Serialize};
use stacyvm_orchestrator::{Caller, ListFilter};
use stacyvm_types::{OwnerId, SandboxId, SpawnRequest};

use super::{done, json, ok};
use crate::body::Json;
use crate::error::{Failure, Reply};
use crate::front::Shared;
use crate::limiter::Principal;
use crate::owner::Asker;
use crate::query::Query;
use crate::target::{RawTarget, Target};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_KEY: usize = 255;
const DEFAULT_LINES: usize = 100;

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

pub(super) async fn admission(
    State(front): State<Shared>,
    Asker(caller): Asker,
    Json(request): Json<SpawnRequest>,
) -> Reply {
    Ok(ok(&front.orchestrator.admission(&caller, request).await?))
}

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

pub(super) async fn prune(State(front): State<Shared>, Asker(caller): Asker) -> Reply {
    #[derive(Serialize)]
    struct Pruned {
        pruned: u64,
    }
    let pruned = front.orchestrator.prune(&caller).await?;
    Ok(ok(&Pruned { pruned }))
}

pub(super) async fn get(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
) -> Reply {
    Ok(ok(&front.orchestrator.get(&caller, &id).await?))
}

/// Idempotent: what never was is as gone as what no longer is.
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

#[derive(Deserialize)]
pub(super) struct Extend {
    ttl: String,
}

pub(super) async fn extend(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
    Json(Extend { ttl }): Json<Extend>,
) -> Reply {
    Ok(ok(&front.orchestrator.extend(&caller, &id, &ttl).await?))
}

pub(super) async fn stats(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
) -> Reply {
    Ok(ok(&front.orchestrator.stats(&caller, &id).await?))
}

pub(super) async fn logs(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
    query: Query,
) -> Reply {
    let lines = query.positive::<usize>("lines")?.unwrap_or(DEFAULT_LINES);
    Ok(ok(&front.orchestrator.logs(&caller, &id, lines).await?))
}
