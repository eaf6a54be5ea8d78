//! How the server is, and the parts of the API whose features this version does not have.

use axum::extract::State;
use http::StatusCode;
use serde::Serialize;
use stacyvm_types::GoDuration;

use super::{json, ok};
use crate::error::Reply;
use crate::front::{Front, Shared};

/// Time since the start, to the millisecond.
pub(super) fn uptime(front: &Front) -> GoDuration {
    let millis = i64::try_from(front.started.elapsed().as_millis()).unwrap_or(i64::MAX);
    GoDuration::from_nanos(millis.saturating_mul(1_000_000))
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    version: &'a str,
    uptime: GoDuration,
}

pub(super) async fn health(State(front): State<Shared>) -> Reply {
    Ok(ok(&Health {
        status: "ok",
        version: &front.version,
        uptime: uptime(&front),
    }))
}

#[derive(Serialize)]
struct Probe {
    status: &'static str,
    uptime: GoDuration,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(super) async fn live(State(front): State<Shared>) -> Reply {
    Ok(ok(&Probe {
        status: "alive",
        uptime: uptime(&front),
        reason: None,
    }))
}

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

#[derive(Serialize)]
struct Pool {
    enabled: bool,
}

pub(super) async fn pool() -> Reply {
    Ok(ok(&Pool { enabled: false }))
}

pub(super) async fn snapshots() -> Reply {
    Ok(ok(&[(); 0]))
}
