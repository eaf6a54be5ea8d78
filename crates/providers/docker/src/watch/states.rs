//! The states of sandboxes as the engine's events report them, and the waiters for their ends. Its
//! size is bounded by the number of sandboxes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stacyvm_types::SandboxId;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long before a container's end an out-of-memory kill counts as the cause.
const CAUSE_WINDOW: Duration = Duration::from_secs(10);
/// The exit code of a first process that was killed.
const SIGKILL_EXIT_CODE: i64 = 137;
/// How many ends are kept for later questions about their cause.
const MAX_ENDS: usize = 1024;

/// The states of all sandboxes of one server.
#[derive(Debug, Default)]
pub(super) struct SandboxStates {
    seen: Mutex<SeenEvents>,
}

#[derive(Debug, Default)]
struct SeenEvents {
    paused: HashSet<SandboxId>,
    /// The newest out-of-memory kill in each sandbox.
    out_of_memory: HashMap<SandboxId, Instant>,
    /// The newest ends, each with whether it was an out-of-memory kill.
    ends: VecDeque<(SandboxId, bool)>,
    /// For each awaited sandbox the number of waiters.
    waiters: HashMap<SandboxId, (Arc<Notify>, usize)>,
}

/// Waits for a sandbox's end.
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    states: &'a SandboxStates,
    id: SandboxId,
    notify: Arc<Notify>,
}

impl Waiter<'_> {
    /// Resolves when the sandbox may have ended since the last call.
    pub(super) async fn notified(&mut self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut seen = self.states.seen.lock();
        if let Some((_, count)) = seen.waiters.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                seen.waiters.remove(&self.id);
            }
        }
    }
}

impl SandboxStates {
    /// Registers a waiter, which is notified of everything from now on.
    pub(super) fn wait_for(&self, id: &SandboxId) -> Waiter<'_> {
        let mut seen = self.seen.lock();
        let (notify, count) = seen.waiters.entry(id.clone()).or_default();
        *count += 1;
        Waiter {
            states: self,
            id: id.clone(),
            notify: Arc::clone(notify),
        }
    }

    /// The sandboxes that have waiters.
    pub(super) fn waited_for(&self) -> Vec<SandboxId> {
        self.seen.lock().waiters.keys().cloned().collect()
    }

    /// Notifies the waiters of a sandbox.
    pub(super) fn notify(&self, id: &SandboxId) {
        if let Some((notify, _)) = self.seen.lock().waiters.get(id) {
            notify.notify_waiters();
            // For a waiter that does not wait at this moment.
            notify.notify_one();
        }
    }

    /// Records whether a sandbox is paused, which it is not at first; true when that is a change.
    pub(super) fn set_paused(&self, id: &SandboxId, is_paused: bool) -> bool {
        let mut seen = self.seen.lock();
        if is_paused {
            seen.paused.insert(id.clone())
        } else {
            seen.paused.remove(id)
        }
    }

    /// Records that a container was removed.
    pub(super) fn gone(&self, id: &SandboxId) {
        let mut seen = self.seen.lock();
        seen.paused.remove(id);
        seen.out_of_memory.remove(id);
    }

    /// Records an out-of-memory kill in a sandbox.
    pub(super) fn out_of_memory(&self, id: &SandboxId) {
        self.seen
            .lock()
            .out_of_memory
            .insert(id.clone(), Instant::now());
    }

    /// Records the end of a container's first process.
    pub(super) fn died(&self, id: &SandboxId, code: Option<i64>) {
        let mut seen = self.seen.lock();
        seen.paused.remove(id);
        let killed = seen.out_of_memory.remove(id);
        let is_recent = killed.is_some_and(|when| when.elapsed() < CAUSE_WINDOW);
        if seen.ends.len() == MAX_ENDS {
            seen.ends.pop_front();
        }
        let out_of_memory = is_recent && code == Some(SIGKILL_EXIT_CODE);
        seen.ends.push_back((id.clone(), out_of_memory));
    }

    /// Whether an out-of-memory kill ended a sandbox; none when its end was not seen.
    pub(super) fn ended_out_of_memory(&self, id: &SandboxId) -> Option<bool> {
        let seen = self.seen.lock();
        let found = seen.ends.iter().rev().find(|(ended, _)| ended == id);
        found.map(|(_, out_of_memory)| *out_of_memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_kill_soon_after_want_of_memory_is_of_it() {
        let states = SandboxStates::default();
        let id = SandboxId::from_u32;
        for (number, killed, wait, code, expected) in [
            (1, true, 1, Some(137), true),
            (2, true, 11, Some(137), false),
            (3, true, 1, Some(0), false),
            (4, false, 1, Some(137), false),
            (5, true, 1, None, false),
        ] {
            if killed {
                states.out_of_memory(&id(number));
            }
            tokio::time::advance(Duration::from_secs(wait)).await;
            states.died(&id(number), code);
            assert_eq!(
                states.ended_out_of_memory(&id(number)),
                Some(expected),
                "{number}"
            );
        }
        assert_eq!(states.ended_out_of_memory(&id(9)), None);
    }

    #[tokio::test]
    async fn what_is_told_before_anybody_waits_is_heard_and_nothing_is_left() {
        let states = SandboxStates::default();
        let id = SandboxId::from_u32(1);
        let mut first = states.wait_for(&id);
        let second = states.wait_for(&id);
        states.notify(&id);
        first.notified().await;
        drop((first, second));
        assert!(states.waited_for().is_empty());
    }

    #[test]
    fn only_a_change_is_one() {
        let states = SandboxStates::default();
        let id = SandboxId::from_u32(1);
        let changes =
            [false, true, true, false, false].map(|paused| states.set_paused(&id, paused));
        assert_eq!(changes, [false, true, false, true, false]);
    }
}
