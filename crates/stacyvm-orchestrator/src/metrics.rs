//! Counters and latency histograms with closed label sets: an operation and a configured
//! provider. Nothing a client sends ever becomes a label.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use stacyvm_types::SandboxState;

/// What is counted and timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// From the accepted request to `running`.
    Spawn,
    /// One attempt to destroy a box.
    Destroy,
    /// From the request to the command's end.
    Exec,
    /// A measurement of use.
    Stats,
    /// A look at the log ring.
    Logs,
    /// Any look at files: stat, list, glob.
    FileInspect,
    /// Opening a file or directory to be read out.
    FileRead,
    /// A whole file or archive written.
    FileWrite,
    /// Any change beside content: mkdir, move, remove, chmod.
    FileChange,
    /// A connection to a port inside.
    Forward,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 10] = [
        Self::Spawn,
        Self::Destroy,
        Self::Exec,
        Self::Stats,
        Self::Logs,
        Self::FileInspect,
        Self::FileRead,
        Self::FileWrite,
        Self::FileChange,
        Self::Forward,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::Destroy => "destroy",
            Self::Exec => "exec",
            Self::Stats => "stats",
            Self::Logs => "logs",
            Self::FileInspect => "file_inspect",
            Self::FileRead => "file_read",
            Self::FileWrite => "file_write",
            Self::FileChange => "file_change",
            Self::Forward => "forward",
        }
    }
}

/// Upper bounds of the histogram's buckets, seconds; one more bucket takes what is longer.
pub const BUCKET_BOUNDS: [f64; 14] = [
    0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.5, 1.0, 5.0, 30.0, 300.0,
];

/// One operation of one provider.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperationMetrics {
    /// The operation.
    pub operation: Operation,
    /// The name of the provider.
    pub provider: String,
    /// How many ended.
    pub count: u64,
    /// How many of them failed.
    pub errors: u64,
    /// Sum of their durations, seconds.
    pub seconds: f64,
    /// Per bound of [`BUCKET_BOUNDS`]: how many took no longer (cumulative, without the last,
    /// unbounded bucket, which is `count`).
    pub buckets: Vec<u64>,
}

/// Everything counted, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricsSnapshot {
    /// Since the start, seconds.
    pub uptime_seconds: f64,
    /// Sandboxes alive.
    pub active_sandboxes: u64,
    /// Sandboxes ever begun with this store, failed ones included.
    pub total_sandboxes: u64,
    /// Alive ones by state; every state but `destroyed` is there.
    pub by_state: BTreeMap<SandboxState, u64>,
    /// Alive ones by provider; every configured provider is there.
    pub by_provider: BTreeMap<String, u64>,
    /// Commands running now.
    pub active_execs: u64,
    /// Sandboxes destroyed because their time ran out.
    pub expired: u64,
    /// Things the reconciler put right.
    pub reconcile_actions: u64,
    /// Per operation and provider; those never used are left out.
    pub operations: Vec<OperationMetrics>,
}

#[derive(Debug, Default)]
struct Cell {
    count: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKET_BOUNDS.len()],
}

/// The counters of one provider.
#[derive(Debug, Default)]
pub(crate) struct ProviderMetrics {
    cells: [Cell; Operation::ALL.len()],
}

impl ProviderMetrics {
    pub(crate) fn record(&self, operation: Operation, took: Duration, failed: bool) {
        let cell = &self.cells[operation as usize];
        cell.count.fetch_add(1, Ordering::Relaxed);
        if failed {
            cell.errors.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        cell.nanos.fetch_add(nanos, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        if let Some(index) = BUCKET_BOUNDS.iter().position(|bound| seconds <= *bound) {
            cell.buckets[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self, provider: &str) -> Vec<OperationMetrics> {
        let one = |operation: Operation| {
            let cell = &self.cells[operation as usize];
            let mut sum = 0;
            let buckets = cell.buckets.iter().map(|bucket| {
                sum += bucket.load(Ordering::Relaxed);
                sum
            });
            let buckets: Vec<u64> = buckets.collect();
            OperationMetrics {
                operation,
                provider: provider.to_owned(),
                // Read after the buckets: they never add up to more than it.
                count: cell.count.load(Ordering::Relaxed).max(sum),
                errors: cell.errors.load(Ordering::Relaxed),
                seconds: Duration::from_nanos(cell.nanos.load(Ordering::Relaxed)).as_secs_f64(),
                buckets,
            }
        };
        let all = Operation::ALL.into_iter().map(one);
        all.filter(|metrics| metrics.count > 0).collect()
    }
}

/// Counters of the whole orchestrator.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) sandboxes: AtomicU64,
    pub(crate) active_execs: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) reconcile_actions: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_own_cell_and_name() {
        let metrics = ProviderMetrics::default();
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index);
            metrics.record(operation, Duration::from_millis(1), index == 0);
        }
        let snapshot = metrics.snapshot("fake");
        assert_eq!(snapshot.len(), Operation::ALL.len());
        assert_eq!((snapshot[0].errors, snapshot[1].errors), (1, 0));
        let mut names: Vec<_> = Operation::ALL.map(Operation::as_str).to_vec();
        names.dedup();
        assert_eq!(names.len(), Operation::ALL.len());
    }

    #[test]
    fn buckets_are_cumulative_and_the_longest_counts_only_in_the_total() {
        let metrics = ProviderMetrics::default();
        for millis in [1, 1, 3, 1_000_000] {
            metrics.record(Operation::Exec, Duration::from_millis(millis), false);
        }
        let snapshot = &metrics.snapshot("fake")[0];
        assert_eq!(snapshot.buckets[..5], [0, 2, 2, 3, 3]);
        assert_eq!(snapshot.buckets.last(), Some(&3));
        assert_eq!(snapshot.count, 4);
    }
}
