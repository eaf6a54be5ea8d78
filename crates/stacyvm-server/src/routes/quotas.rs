//! Quotas: the limits of single owners.

use axum::extract::State;
use http::StatusCode;
use stacyvm_types::{Quota, QuotaRequest, QuotaSummary, StatusResponse};

use crate::body::Json;
use crate::error::Reply;
use crate::openapi::failures::{ConflictErrors, JsonBodyErrors, NotFoundErrors};
use crate::owner::RequestCaller;
use crate::response::{done, json, ok};
use crate::state::SharedState;
use crate::target::RawTarget;

/// Lists the quotas, sorted by owner. In pool mode an owner sees their own.
#[utoipa::path(
    get, path = "/api/v1/quotas", tag = "quotas",
    responses((status = 200, description = "The quotas.", body = [Quota])),
)]
pub(super) async fn list(
    State(state): State<SharedState>,
    RequestCaller(caller): RequestCaller,
) -> Reply {
    Ok(ok(&state.orchestrator.quotas(&caller)))
}

/// Gives an owner a quota.
#[utoipa::path(
    post, path = "/api/v1/quotas", tag = "quotas",
    request_body = QuotaRequest,
    responses(
        (status = 201, description = "It holds from now on.", body = Quota),
        JsonBodyErrors,
        ConflictErrors,
    ),
)]
pub(super) async fn create(
    State(state): State<SharedState>,
    RequestCaller(caller): RequestCaller,
    Json(request): Json<QuotaRequest>,
) -> Reply {
    let quota = state.orchestrator.create_quota(&caller, request).await?;
    Ok(json(StatusCode::CREATED, &quota))
}

/// Counts the quotas.
#[utoipa::path(
    get, path = "/api/v1/quotas/summary", tag = "quotas",
    responses(
        (status = 200, description = "How many owners have which limit.", body = QuotaSummary),
    ),
)]
pub(super) async fn summary(State(state): State<SharedState>) -> Reply {
    Ok(ok(&state.orchestrator.quota_summary()))
}

/// Shows an owner's quota.
#[utoipa::path(
    get, path = "/api/v1/quotas/{owner}", tag = "quotas",
    responses((status = 200, description = "The quota.", body = Quota), NotFoundErrors),
)]
pub(super) async fn get(
    State(state): State<SharedState>,
    RawTarget(owner): RawTarget,
    RequestCaller(caller): RequestCaller,
) -> Reply {
    Ok(ok(&state.orchestrator.quota(&caller, &owner)?))
}

/// Gives an owner a quota, or changes it.
///
/// What is absent stays as it is; 0 and `0s` take a limit away.
#[utoipa::path(
    put, path = "/api/v1/quotas/{owner}", tag = "quotas",
    request_body = QuotaRequest,
    responses((status = 200, description = "It holds from now on.", body = Quota), JsonBodyErrors),
)]
pub(super) async fn set(
    State(state): State<SharedState>,
    RawTarget(owner): RawTarget,
    RequestCaller(caller): RequestCaller,
    Json(request): Json<QuotaRequest>,
) -> Reply {
    let quota = state.orchestrator.set_quota(&caller, &owner, request);
    Ok(ok(&quota.await?))
}

/// Takes an owner's quota away; the configuration's limits stay.
#[utoipa::path(
    delete, path = "/api/v1/quotas/{owner}", tag = "quotas",
    responses(
        (
            status = 200,
            description = "It is gone.",
            body = StatusResponse,
            example = json!({"status": "deleted"}),
        ),
        NotFoundErrors,
    ),
)]
pub(super) async fn delete(
    State(state): State<SharedState>,
    RawTarget(owner): RawTarget,
    RequestCaller(caller): RequestCaller,
) -> Reply {
    state.orchestrator.delete_quota(&caller, &owner).await?;
    Ok(done("deleted"))
}
