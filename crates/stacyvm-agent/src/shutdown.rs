//! Ending every process of the sandbox before the agent itself ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::processes::{Process, scan, with_descendants};
use crate::tree::{end_all, signal};

/// How long the exits of the last commands may take to be reported.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Ends every process that the agent looks after: SIGTERM, then after `grace` SIGKILL. Returns when
/// they are gone and their exits have been reported to the followers of commands.
pub(crate) async fn end_processes(agent: &Agent, grace: Duration) {
    agent.ending.store(true, Ordering::Release);
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let init = agent.init;
    let all = move || -> Vec<Process> {
        let all = scan();
        let mut found = if init {
            all
        } else {
            with_descendants(&all, |process| process.parent == own)
        };
        found.retain(|process| process.pid != own && process.alive());
        found
    };
    let deadline = Instant::now() + grace;
    let mut left = all();
    signal(&left, Signal::TERM);
    while !left.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
        left = all();
    }
    end_all(all).await;
    let deadline = Instant::now() + REPORT_TIMEOUT;
    while agent.reaper.expected() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
