//! Noticing that a box has reached one of its limits.
//!
//! The kernel counts what it refuses; the watch reads the counters, and how full a limited disk is,
//! and sends a notice of each limit that was reached. A round reads those of a bounded number of
//! boxes, so that thousands of idle ones cost no more than a few hundred; with fewer, each is read
//! every second.

use std::sync::{Arc, Weak};
use std::time::Duration;

use stacyvm_provider::{Notice, Notices};
use stacyvm_sys::cgroup;

use crate::boxes::{BoxEntry, BoxTable};
use crate::disk;

const ROUND: Duration = Duration::from_secs(1);
/// How many boxes a round checks: some milliseconds of work.
const BOXES_PER_ROUND: usize = 200;

/// Checks one box and sends notices of the limits that it has reached since the last check. Blocks.
pub(crate) fn check(entry: &BoxEntry, notices: &Notices) {
    let (groups, limit, process) = {
        let resources = entry.resources();
        if entry.probe || resources.cgroups.is_empty() {
            return;
        }
        let limit = resources.disk.map(|disk| disk.bytes());
        (resources.cgroups.clone(), limit, resources.process.clone())
    };
    let refusals = cgroup::refusals(&groups);
    let disk = limit.zip(process).and_then(|(limit, process)| {
        let fill = disk::fill(process.pid)?;
        // After its end the number may be another process's.
        (!process.ended()).then_some((fill, limit))
    });
    let reached = entry.resources().reported_limits.update(refusals, disk);
    for limit in reached {
        tracing::info!(sandbox_id = %entry.id, limit, "a sandbox has come to a limit");
        notices.tell(Notice::LimitReached {
            id: entry.id.clone(),
            limit,
        });
    }
}

/// Checks all boxes in turn, for as long as the provider lives.
pub(crate) async fn run(boxes: Weak<BoxTable>, notices: Arc<Notices>) {
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next = 0;
    loop {
        rounds.tick().await;
        let Some(boxes) = boxes.upgrade() else { return };
        let mut entries = boxes.all();
        drop(boxes);
        if entries.is_empty() {
            continue;
        }
        // The table has no order; this one stays the same but for boxes that come and go.
        entries.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        let count = entries.len().min(BOXES_PER_ROUND);
        let chosen: Vec<Arc<BoxEntry>> = entries
            .iter()
            .cycle()
            .skip(next % entries.len())
            .take(count)
            .cloned()
            .collect();
        next = (next + count) % entries.len();
        let notices = notices.clone();
        let checking = tokio::task::spawn_blocking(move || {
            for entry in chosen {
                check(&entry, &notices);
            }
        });
        let _ = checking.await;
    }
}
