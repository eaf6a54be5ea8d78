//! Counters, as JSON for people and clients and as text for Prometheus.
//!
//! The text is the exposition format 0.0.4. Labels come from closed sets: operations, states,
//! routes as they are written in our table, and configured providers.

mod http_requests;
mod process;

use std::collections::BTreeMap;
use std::fmt::Write;

use axum::extract::State;
use axum::response::IntoResponse;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use stacyvm_orchestrator::{BUCKET_BOUNDS, MetricsSnapshot};
use stacyvm_types::{GoDuration, SandboxState};
use utoipa::ToSchema;

use crate::error::Reply;
use crate::response::ok;
use crate::state::{ServerState, SharedState};

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
    let text = exposition(&state, &state.orchestrator.metrics());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"{}\"", escape(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    text.replace('\n', "\\n")
}

fn exposition(state: &ServerState, snapshot: &MetricsSnapshot) -> String {
    let mut out = Exposition(String::with_capacity(8 * 1024));
    out.single(
        "stacyvm_uptime_seconds",
        "gauge",
        "Seconds since the server started.",
        state.started.elapsed().as_secs_f64(),
    );
    out.family("stacyvm_build_info", "gauge", "The version that runs.");
    out.sample("stacyvm_build_info", &[("version", &state.version)], 1);
    out.single(
        "stacyvm_memory_resident_bytes",
        "gauge",
        "Resident memory of the server.",
        process::resident_bytes(),
    );
    out.single(
        "stacyvm_sandboxes_created_total",
        "counter",
        "Sandboxes ever made.",
        snapshot.total_sandboxes,
    );
    out.single(
        "stacyvm_sandboxes_expired_total",
        "counter",
        "Sandboxes destroyed because their time ran out.",
        snapshot.expired,
    );
    out.single(
        "stacyvm_reconcile_actions_total",
        "counter",
        "Things that the reconciler put right.",
        snapshot.reconcile_actions,
    );
    out.single(
        "stacyvm_execs_active",
        "gauge",
        "Commands that run now.",
        snapshot.active_execs,
    );
    out.single(
        "stacyvm_sandboxes_active",
        "gauge",
        "Sandboxes alive.",
        snapshot.active_sandboxes,
    );
    let name = "stacyvm_sandboxes";
    out.family(name, "gauge", "Sandboxes alive, by state.");
    for (state, count) in &snapshot.by_state {
        out.sample(name, &[("state", state.as_str())], count);
    }
    let name = "stacyvm_provider_sandboxes";
    out.family(name, "gauge", "Sandboxes alive, by provider.");
    for (provider, count) in &snapshot.by_provider {
        out.sample(name, &[("provider", provider)], count);
    }
    operations(&mut out, snapshot);
    http_requests::write(&mut out, &state.http_metrics);
    process::write(&mut out);
    out.0
}

fn operations(out: &mut Exposition, snapshot: &MetricsSnapshot) {
    let all = || {
        snapshot.operations.iter().map(|metrics| {
            let labels = [
                ("operation", metrics.operation.as_str()),
                ("provider", metrics.provider.as_str()),
            ];
            (labels, metrics)
        })
    };
    let name = "stacyvm_operations_total";
    out.family(name, "counter", "Operations that ended.");
    for (labels, metrics) in all() {
        out.sample(name, &labels, metrics.count);
    }
    let name = "stacyvm_operation_errors_total";
    out.family(name, "counter", "Operations that failed.");
    for (labels, metrics) in all() {
        out.sample(name, &labels, metrics.errors);
    }
    let name = "stacyvm_operation_duration_seconds";
    out.family(name, "histogram", "How long operations took.");
    for ([operation, provider], metrics) in all() {
        let bucket = format!("{name}_bucket");
        for (bound, count) in BUCKET_BOUNDS.iter().zip(&metrics.buckets) {
            let bound = bound.to_string();
            out.sample(&bucket, &[operation, provider, ("le", &bound)], count);
        }
        let labels = [operation, provider, ("le", "+Inf")];
        out.sample(&bucket, &labels, metrics.count);
        let labels = [operation, provider];
        out.sample(&format!("{name}_sum"), &labels, metrics.seconds);
        out.sample(&format!("{name}_count"), &labels, metrics.count);
    }
}
