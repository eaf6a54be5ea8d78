//! Processes, memory and CPU time of the sandbox.

use stacyvm_proto::message::Counts;

use crate::processes::{scan, with_descendants};

/// Length of a clock tick in `/proc`, nanoseconds: `USER_HZ` is 100 on all supported architectures.
const TICK_NANOS: u64 = 10_000_000;

/// Counts every process but the agent: all visible ones if the agent is the first process of its
/// namespace, otherwise its descendants.
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
    // The time of reaped processes is counted as children's time of the agent.
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
