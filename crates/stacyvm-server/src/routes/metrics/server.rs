//! What the server and the orchestrator count, as one collector of the library's registry.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use stacyvm_orchestrator::{MetricsSnapshot, OperationMetrics};

use super::exposition::{Histogram, Labels, counter, counters, gauge, gauges, histograms};
use super::{http_requests, process};
use crate::state::SharedState;

/// The server's metrics at one moment.
#[derive(Debug)]
pub(super) struct ServerCollector {
    state: SharedState,
    snapshot: MetricsSnapshot,
}

impl ServerCollector {
    /// The present metrics.
    pub(super) fn new(state: SharedState) -> Self {
        Self {
            snapshot: state.orchestrator.metrics(),
            state,
        }
    }

    fn encode_server(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        gauge(
            encoder,
            "stacyvm_uptime_seconds",
            "Seconds since the server started.",
            self.state.started.elapsed().as_secs_f64(),
        )?;
        gauges(
            encoder,
            "stacyvm_build_info",
            "The version that runs.",
            [([("version", self.state.version.as_str())], 1)],
        )?;
        gauge(
            encoder,
            "stacyvm_memory_resident_bytes",
            "Resident memory of the server.",
            process::resident_bytes(),
        )
    }

    fn encode_sandboxes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = &self.snapshot;
        counter(
            encoder,
            "stacyvm_sandboxes_created",
            "Sandboxes ever made.",
            snapshot.total_sandboxes,
        )?;
        counter(
            encoder,
            "stacyvm_sandboxes_expired",
            "Sandboxes destroyed because their time ran out.",
            snapshot.expired,
        )?;
        counter(
            encoder,
            "stacyvm_reconcile_actions",
            "Differences that the reconciler removed.",
            snapshot.reconcile_actions,
        )?;
        gauge(
            encoder,
            "stacyvm_execs_active",
            "Commands that run now.",
            snapshot.active_execs,
        )?;
        gauge(
            encoder,
            "stacyvm_sandboxes_active",
            "Sandboxes alive.",
            snapshot.active_sandboxes,
        )?;
        let by_state = snapshot.by_state.iter();
        gauges(
            encoder,
            "stacyvm_sandboxes",
            "Sandboxes alive, by state.",
            by_state.map(|(state, count)| ([("state", state.as_str())], *count)),
        )?;
        let by_provider = snapshot.by_provider.iter();
        gauges(
            encoder,
            "stacyvm_provider_sandboxes",
            "Sandboxes alive, by provider.",
            by_provider.map(|(provider, count)| ([("provider", provider.as_str())], *count)),
        )
    }

    fn encode_operations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let operations = self.snapshot.operations.iter();
        counters(
            encoder,
            "stacyvm_operations",
            "Operations that ended.",
            operations
                .clone()
                .map(|metrics| (labels(metrics), metrics.count)),
        )?;
        counters(
            encoder,
            "stacyvm_operation_errors",
            "Operations that failed.",
            operations
                .clone()
                .map(|metrics| (labels(metrics), metrics.errors)),
        )?;
        histograms(
            encoder,
            "stacyvm_operation_duration_seconds",
            "How long operations took.",
            operations.map(|metrics| (labels(metrics), durations(metrics))),
        )
    }
}

impl Collector for ServerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.encode_server(encoder)?;
        self.encode_sandboxes(encoder)?;
        self.encode_operations(encoder)?;
        http_requests::encode(encoder, &self.state.http_metrics)?;
        process::encode(encoder)
    }
}

fn labels(metrics: &OperationMetrics) -> Labels<'_, 2> {
    [
        ("operation", metrics.operation.as_str()),
        ("provider", metrics.provider.as_str()),
    ]
}

/// The orchestrator's buckets are cumulative; those of the exposition are not.
fn durations(metrics: &OperationMetrics) -> Histogram {
    let mut histogram = Histogram {
        buckets: Default::default(),
        count: metrics.count,
        seconds: metrics.seconds,
    };
    let mut before = 0;
    for (bucket, cumulative) in histogram.buckets.iter_mut().zip(&metrics.buckets) {
        *bucket = cumulative.saturating_sub(before);
        before = *cumulative;
    }
    histogram
}
