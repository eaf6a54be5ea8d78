//! The one place that waits for processes.
//!
//! Every process whose parent dies becomes a child of the agent, which is the first process of its
//! namespace or a subreaper. Every wait happens here: a second waiter would steal exit codes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::Mutex;
use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::sync::oneshot;

/// A process whose end a command waits for.
#[derive(Debug)]
struct Awaited {
    /// Set to 0 when the process has been reaped and its number is free again.
    leader: Arc<AtomicI32>,
    exited: oneshot::Sender<WaitStatus>,
}

/// Reaps children, and reports the exit of those that commands wait for.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    awaited: Mutex<HashMap<i32, Awaited>>,
}

impl Reaper {
    /// Registers a process that has just been started. The caller must not await anything between
    /// the start and this call.
    pub(crate) fn expect(&self, pid: i32) -> (Arc<AtomicI32>, oneshot::Receiver<WaitStatus>) {
        let leader = Arc::new(AtomicI32::new(pid));
        let (exited, exit) = oneshot::channel();
        let awaited = Awaited {
            leader: leader.clone(),
            exited,
        };
        self.awaited.lock().insert(pid, awaited);
        (leader, exit)
    }

    /// How many registered processes have not been reaped.
    pub(crate) fn expected(&self) -> usize {
        self.awaited.lock().len()
    }

    /// Reaps every child that has ended.
    pub(crate) fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let awaited = self.awaited.lock().remove(&pid.as_raw_nonzero().get());
            if let Some(awaited) = awaited {
                awaited.leader.store(0, Ordering::Release);
                // The task that followed the command may be gone.
                let _ = awaited.exited.send(status);
            }
        }
    }
}
