//! What single owners may use at most.

use axum::extract::State;
use http::StatusCode;
use stacyvm_types::{Quota, QuotaRequest, QuotaSummary};

use super::{Done, done, json, ok};
use crate::body::Json;
use crate::error::Reply;
use crate::front::Shared;
use crate::openapi::{JsonBody, NoSuch, Taken};
use crate::owner::Asker;
use crate::target::RawTarget;

/// Lists the quotas, sorted by owner. In pool mode an owner sees their own.
#[utoipa::path(
    get, path = "/api/v1/quotas", tag = "quotas",
    responses((status = 200, description = "The quotas.", body = [Quota])),
)]
pub(super) async fn list(State(front): State<Shared>, Asker(caller): Asker) -> Reply {
    Ok(ok(&front.orchestrator.quotas(&caller)))
}

/// Gives an owner a quota.
#[utoipa::path(
    post, path = "/api/v1/quotas", tag = "quotas",
    request_body = QuotaRequest,
    responses((status = 201, description = "It holds from now on.", body = Quota), JsonBody, Taken),
)]
pub(super) async fn create(
    State(front): State<Shared>,
    Asker(caller): Asker,
    Json(request): Json<QuotaRequest>,
) -> Reply {
    let quota = front.orchestrator.create_quota(&caller, request).await?;
    Ok(json(StatusCode::CREATED, &quota))
}

/// Counts the quotas.
#[utoipa::path(
    get, path = "/api/v1/quotas/summary", tag = "quotas",
    responses((status = 200, description = "How many owners have which limit.", body = QuotaSummary)),
)]
pub(super) async fn summary(State(front): State<Shared>) -> Reply {
    Ok(ok(&front.orchestrator.quota_summary()))
}

/// Shows an owner's quota.
#[utoipa::path(
    get, path = "/api/v1/quotas/{owner}", tag = "quotas",
    responses((status = 200, description = "The quota.", body = Quota), NoSuch),
)]
pub(super) async fn get(
    State(front): State<Shared>,
    RawTarget(owner): RawTarget,
    Asker(caller): Asker,
) -> Reply {
    Ok(ok(&front.orchestrator.quota(&caller, &owner)?))
}

/// Gives an owner a quota, or changes it.
///
/// What is absent stays as it is; 0 and `0s` take a limit away.
#[utoipa::path(
    put, path = "/api/v1/quotas/{owner}", tag = "quotas",
    request_body = QuotaRequest,
    responses((status = 200, description = "It holds from now on.", body = Quota), JsonBody),
)]
pub(super) async fn set(
    State(front): State<Shared>,
    RawTarget(owner): RawTarget,
    Asker(caller): Asker,
    Json(request): Json<QuotaRequest>,
) -> Reply {
    let quota = front.orchestrator.set_quota(&caller, &owner, request);
    Ok(ok(&quota.await?))
}

/// Takes an owner's quota away; the configuration's limits stay.
#[utoipa::path(
    delete, path = "/api/v1/quotas/{owner}", tag = "quotas",
    responses((status = 200, description = "It is gone.", body = Done, example = json!({"status": "deleted"})), NoSuch),
)]
pub(super) async fn delete(
    State(front): State<Shared>,
    RawTarget(owner): RawTarget,
    Asker(caller): Asker,
) -> Reply {
    front.orchestrator.delete_quota(&caller, &owner).await?;
    Ok(done("deleted"))
}
