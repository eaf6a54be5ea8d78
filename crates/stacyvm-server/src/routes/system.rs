//! Health of the server, and the parts of the API whose features this version does not have.

use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use stacyvm_types::{Health, ProbeStatus};
use utoipa::ToSchema;

use crate::error::Reply;
use crate::openapi::shapes::EmptyList;
use crate::response::{json, ok};
use crate::state::SharedState;

/// Says that the server answers, and its version.
#[utoipa::path(
    get, path = "/api/v1/health", tag = "system",
    responses((status = 200, description = "It answers.", body = Health)),
)]
pub(super) async fn health(State(state): State<SharedState>) -> Reply {
    Ok(ok(&Health {
        status: "ok".to_owned(),
        version: state.version.clone(),
        uptime: state.uptime(),
    }))
}

/// Says that the process lives. Needs no key.
#[utoipa::path(
    get, path = "/api/v1/live", tag = "system",
    responses(
        (
            status = 200,
            description = "It lives.",
            body = ProbeStatus,
            example = json!({"status": "alive", "uptime": "1h2m3.4s"}),
        ),
    ),
)]
pub(super) async fn live(State(state): State<SharedState>) -> Reply {
    Ok(ok(&ProbeStatus {
        status: "alive".to_owned(),
        uptime: state.uptime(),
        reason: None,
    }))
}

/// Says whether a spawn would find a healthy provider. Needs no key and probes nothing.
#[utoipa::path(
    get, path = "/api/v1/ready", tag = "system",
    responses(
        (status = 200, description = "It is ready.", body = ProbeStatus),
        (
            status = 503,
            description = "It is not.",
            body = ProbeStatus,
            example = json!({"status": "not_ready", "uptime": "3.4s", "reason": "shutting down"}),
        ),
    ),
)]
pub(super) async fn ready(State(state): State<SharedState>) -> Reply {
    let (code, status, reason) = match state.orchestrator.ready() {
        Ok(()) => (StatusCode::OK, "ready", None),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready", Some(reason)),
    };
    let probe = ProbeStatus {
        status: status.to_owned(),
        uptime: state.uptime(),
        reason,
    };
    Ok(json(code, &probe))
}

#[derive(Serialize, ToSchema)]
struct PoolStatus {
    /// Whether sandboxes are made in the machines of a pool.
    enabled: bool,
}

/// Shows how full the pool is.
#[utoipa::path(
    get, path = "/api/v1/pool/status", tag = "pool",
    responses((status = 200, description = "The pool.", body = PoolStatus)),
)]
pub(super) async fn pool() -> Reply {
    Ok(ok(&PoolStatus { enabled: false }))
}

/// Lists the snapshots.
#[utoipa::path(
    get, path = "/api/v1/snapshots", tag = "snapshots",
    responses((status = 200, description = "The snapshots.", body = EmptyList)),
)]
pub(super) async fn snapshots() -> Reply {
    Ok(ok(&[(); 0]))
}
