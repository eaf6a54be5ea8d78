//! Counting what the sandbox's processes use.

use stacyvm_proto::message::Counts;

use crate::processes::{scan, with_descendants};

/// Length of a clock tick as `/proc` counts it: `USER_HZ` is 100 on every architecture of ours.
const TICK_NANOS: u64 = 10_000_000;

/// Counts every process but the agent: all that can be seen for the first process of a sandbox,
/// else the agent's own descendants.
pub(crate) fn count(init: bool) -> Counts {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let all = scan();
    let seen = if init {
        all.clone()
    } else {
        with_descendants(&all, |process| process.parent == own)
    };
    let page = rustix::param::page_size() as u64;
    let mut counts = Counts::default();
    // What has ended and been reaped stands with the agent as its children's time.
    let mut ticks = all
        .iter()
        .find(|process| process.pid == own)
        .map_or(0, |process| process.children_ticks);
    for process in seen.iter().filter(|process| process.pid != own) {
        counts.pids += 1;
        counts.mem_bytes += process.pages * page;
        ticks += process.ticks;
    }
    counts.cpu_nanos = ticks.saturating_mul(TICK_NANOS);
    counts
}
