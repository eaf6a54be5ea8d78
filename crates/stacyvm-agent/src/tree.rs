//! Ending everything that a command has started.
//!
//! A member of a command's tree is a process that carries its mark, shares its session, descends
//! from it, or descends from one that does: a daemon that forked twice and left the session still
//! carries the mark. Session and descent count only while the command itself has not been reaped,
//! because another process may get its number afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::processes::{Process, mark, scan, with_descendants};

/// How long killing is repeated. A process in an uninterruptible wait dies when the wait ends.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How many rounds of SIGSTOP precede the next SIGKILL, for a tree that forks faster than it is
/// scanned.
const MAX_STOP_ROUNDS: usize = 20;

/// The process tree of a command.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// Number of the command's own process; 0 once it has been reaped.
    pub(crate) leader: Arc<AtomicI32>,
    /// The mark that every descendant inherits.
    pub(crate) mark: u64,
}

impl Tree {
    fn members(&self) -> Vec<Process> {
        let all = scan();
        // Read after the scan, so that the scan cannot contain a later process with this number.
        let leader = self.leader.load(Ordering::Acquire);
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let seed = |process: &Process| {
            process.pid != own
                && process.alive()
                && ((leader != 0 && (process.pid == leader || process.session == leader))
                    || mark(process.pid) == Some(self.mark))
        };
        let mut members = with_descendants(&all, seed);
        members.retain(|process| process.alive() && process.pid != own);
        members
    }

    /// Kills every member. Returns when none is left, or after [`KILL_TIMEOUT`].
    pub(crate) async fn kill(&self) {
        end_all(|| self.members()).await;
    }
}

/// Kills what `members` finds, round after round, until it finds nothing.
pub(crate) async fn end_all(members: impl Fn() -> Vec<Process>) {
    let deadline = Instant::now() + KILL_TIMEOUT;
    let mut pause = Duration::from_millis(1);
    let mut first = true;
    loop {
        let mut found = members();
        if found.is_empty() || Instant::now() > deadline {
            return;
        }
        if !std::mem::take(&mut first) {
            // The tree forks faster than it is scanned: stop its processes until all stand still.
            for _ in 0..MAX_STOP_ROUNDS {
                if found.iter().all(|process| process.state == b'T') {
                    break;
                }
                signal(&found, Signal::STOP);
                found = members();
            }
        }
        signal(&found, Signal::KILL);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Sends a signal to each process. A process that has ended meanwhile is no error.
pub(crate) fn signal(processes: &[Process], signal: Signal) {
    for process in processes {
        if let Some(pid) = Pid::from_raw(process.pid) {
            let _ = kill_process(pid, signal);
        }
    }
}
