//! What single owners may use at most.

use axum::extract::State;
use http::StatusCode;
use stacyvm_types::QuotaRequest;

use super::{done, json, ok};
use crate::body::Json;
use crate::error::Reply;
use crate::front::Shared;
use crate::owner::Asker;
use crate::target::RawTarget;

pub(super) async fn list(State(front): State<Shared>, Asker(caller): Asker) -> Reply {
    Ok(ok(&front.orchestrator.quotas(&caller)))
}

pub(super) async fn create(
    State(front): State<Shared>,
    Asker(caller): Asker,
    Json(request): Json<QuotaRequest>,
) -> Reply {
    let quota = front.orchestrator.create_quota(&caller, request).await?;
    Ok(json(StatusCode::CREATED, &quota))
}

pub(super) async fn summary(State(front): State<Shared>) -> Reply {
    Ok(ok(&front.orchestrator.quota_summary()))
}

pub(super) async fn get(
    State(front): State<Shared>,
    RawTarget(owner): RawTarget,
    Asker(caller): Asker,
) -> Reply {
    Ok(ok(&front.orchestrator.quota(&caller, &owner)?))
}

pub(super) async fn set(
    State(front): State<Shared>,
    RawTarget(owner): RawTarget,
    Asker(caller): Asker,
    Json(request): Json<QuotaRequest>,
) -> Reply {
    let quota = front.orchestrator.set_quota(&caller, &owner, request);
    Ok(ok(&quota.await?))
}

pub(super) async fn delete(
    State(front): State<Shared>,
    RawTarget(owner): RawTarget,
    Asker(caller): Asker,
) -> Reply {
    front.orchestrator.delete_quota(&caller, &owner).await?;
    Ok(done("deleted"))
}
