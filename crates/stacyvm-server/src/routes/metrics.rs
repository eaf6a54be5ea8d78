//! Counters, as JSON for people and clients and as text for Prometheus.
//!
//! The text is the exposition format 0.0.4, which the library `prometheus-client` writes. Labels
//! come from closed sets: operations, states, routes of the server's table, configured providers.

mod exposition;
mod http_requests;
mod process;
mod server;

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::IntoResponse;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;
use serde::Serialize;
use stacyvm_types::{GoDuration, SandboxState};
use utoipa::ToSchema;

use self::server::ServerCollector;
use crate::error::{Failure, Reply};
use crate::response::ok;
use crate::state::SharedState;

#[derive(Serialize, ToSchema)]
struct Metrics<'a> {
    uptime: GoDuration,
    active_sandboxes: u64,
    total_sandboxes: u64,
    /// Resident memory of the server, bytes; 0 where the system does not tell.
    memory_alloc: u64,
    sandboxes: Sandboxes<'a>,
    active_execs: u64,
    expired_sandboxes: u64,
    reconcile_actions: u64,
    operations: Vec<Operation<'a>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SandboxCounts)]
struct Sandboxes<'a> {
    total: u64,
    active: u64,
    by_state: &'a BTreeMap<SandboxState, u64>,
    by_provider: &'a BTreeMap<String, u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = OperationCounts)]
struct Operation<'a> {
    operation: &'static str,
    provider: &'a str,
    count: u64,
    errors: u64,
    avg_ms: f64,
}

/// Shows the counters.
#[utoipa::path(
    get, path = "/api/v1/metrics", tag = "system",
    responses((status = 200, description = "The counters.", body = Metrics)),
)]
pub(super) async fn json(State(state): State<SharedState>) -> Reply {
    let snapshot = state.orchestrator.metrics();
    let operations = snapshot.operations.iter().map(|metrics| Operation {
        operation: metrics.operation.as_str(),
        provider: &metrics.provider,
        count: metrics.count,
        errors: metrics.errors,
        avg_ms: metrics.seconds * 1000.0 / metrics.count.max(1) as f64,
    });
    Ok(ok(&Metrics {
        uptime: state.uptime(),
        active_sandboxes: snapshot.active_sandboxes,
        total_sandboxes: snapshot.total_sandboxes,
        memory_alloc: process::resident_bytes(),
        sandboxes: Sandboxes {
            total: snapshot.total_sandboxes,
            active: snapshot.active_sandboxes,
            by_state: &snapshot.by_state,
            by_provider: &snapshot.by_provider,
        },
        active_execs: snapshot.active_execs,
        expired_sandboxes: snapshot.expired,
        reconcile_actions: snapshot.reconcile_actions,
        operations: operations.collect(),
    }))
}

/// Shows the counters as Prometheus reads them, text format 0.0.4.
#[utoipa::path(
    get, path = "/api/v1/metrics/prometheus", tag = "system",
    responses(
        (
            status = 200,
            description = "The counters.",
            body = String,
            content_type = "text/plain; version=0.0.4; charset=utf-8",
            example = json!("stacyvm_uptime_seconds 3723.4\n"),
        ),
    ),
)]
pub(super) async fn prometheus(State(state): State<SharedState>) -> Reply {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(ServerCollector::new(state)));
    let mut text = String::with_capacity(8 * 1024);
    prometheus_text::encode(&mut text, &registry).map_err(Failure::internal)?;
    let kind = HeaderValue::from_static(prometheus_text::CONTENT_TYPE);
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}
