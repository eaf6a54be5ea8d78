//! How the server is, and the parts of the API whose features this version does not have.

use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use stacyvm_types::GoDuration;
use utoipa::ToSchema;

use super::{json, ok};
use crate::error::Reply;
use crate::front::{Front, Shared};
use crate::openapi::NoneYet;

/// Time since the start, to the millisecond.
pub(super) fn uptime(front: &Front) -> GoDuration {
    let millis = i64::try_from(front.started.elapsed().as_millis()).unwrap_or(i64::MAX);
    GoDuration::from_nanos(millis.saturating_mul(1_000_000))
}

#[derive(Serialize, ToSchema)]
struct Health<'a> {
    status: &'static str,
    version: &'a str,
    uptime: GoDuration,
}

/// Says that the server answers, and its version.
#[utoipa::path(
    get, path = "/api/v1/health", tag = "system",
    responses((status = 200, description = "It answers.", body = Health)),
)]
pub(super) async fn health(State(front): State<Shared>) -> Reply {
    Ok(ok(&Health {
        status: "ok",
        version: &front.version,
        uptime: uptime(&front),
    }))
}

#[derive(Serialize, ToSchema)]
struct Probe {
    status: &'static str,
    uptime: GoDuration,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Says that the process lives. Needs no key.
#[utoipa::path(
    get, path = "/api/v1/live", tag = "system",
    responses(
        (
            status = 200,
            description = "It lives.",
            body = Probe,
            example = json!({"status": "alive", "uptime": "1h2m3.4s"}),
        ),
    ),
)]
pub(super) async fn live(State(front): State<Shared>) -> Reply {
    Ok(ok(&Probe {
        status: "alive",
        uptime: uptime(&front),
        reason: None,
    }))
}

/// Says whether a spawn would find a healthy provider. Needs no key and probes nothing.
#[utoipa::path(
    get, path = "/api/v1/ready", tag = "system",
    responses(
        (status = 200, description = "It is ready.", body = Probe),
        (
            status = 503,
            description = "It is not.",
            body = Probe,
            example = json!({"status": "not_ready", "uptime": "3.4s", "reason": "shutting down"}),
        ),
    ),
)]
pub(super) async fn ready(State(front): State<Shared>) -> Reply {
    let (code, status, reason) = match front.orchestrator.ready() {
        Ok(()) => (StatusCode::OK, "ready", None),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready", Some(reason)),
    };
    let probe = Probe {
        status,
        uptime: uptime(&front),
        reason,
    };
    Ok(json(code, &probe))
}

#[derive(Serialize, ToSchema)]
struct Pool {
    enabled: bool,
}

/// Shows how full the pool is.
#[utoipa::path(
    get, path = "/api/v1/pool/status", tag = "pool",
    responses((status = 200, description = "The pool.", body = Pool)),
)]
pub(super) async fn pool() -> Reply {
    Ok(ok(&Pool { enabled: false }))
}

/// Lists the snapshots.
#[utoipa::path(
    get, path = "/api/v1/snapshots", tag = "snapshots",
    responses((status = 200, description = "The snapshots.", body = NoneYet)),
)]
pub(super) async fn snapshots() -> Reply {
    Ok(ok(&[(); 0]))
}
