//! What is remembered of sandboxes while the engine's events are followed, and who waits for their
//! ends. Bounded by the sandboxes there are.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stacyvm_types::SandboxId;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long before its end a container must have wanted memory for that to be the cause.
const OF_THAT: Duration = Duration::from_secs(10);
/// The exit code of a first process that was killed.
const KILLED: i64 = 137;
/// How many ends are remembered for whoever asks for their cause.
const ENDS: usize = 1024;

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Record {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    paused: HashSet<SandboxId>,
    wanted_memory: HashMap<SandboxId, Instant>,
    /// The newest ends, and whether each was for want of memory.
    ends: VecDeque<(SandboxId, bool)>,
    waiting: HashMap<SandboxId, (Arc<Notify>, usize)>,
}

/// Who waits for a sandbox's end.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    record: &'a Record,
    id: SandboxId,
    notify: Arc<Notify>,
}

impl Waiting<'_> {
    /// Resolves when it is worth looking again, also when it was told since the last time.
    pub(super) async fn told(&mut self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut inner = self.record.lock();
        if let Some((_, count)) = inner.waiting.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                inner.waiting.remove(&self.id);
            }
        }
    }
}

impl Record {
    pub(super) fn wait_for(&self, id: &SandboxId) -> Waiting<'_> {
        let mut inner = self.lock();
        let (notify, count) = inner.waiting.entry(id.clone()).or_default();
        *count += 1;
        Waiting {
            record: self,
            id: id.clone(),
            notify: Arc::clone(notify),
        }
    }

    /// Whose ends are waited for.
    pub(super) fn waited_for(&self) -> Vec<SandboxId> {
        self.lock().waiting.keys().cloned().collect()
    }

    /// Lets those who wait for this one look again.
    pub(super) fn tell(&self, id: &SandboxId) {
        if let Some((notify, _)) = self.lock().waiting.get(id) {
            notify.notify_waiters();
            // For one who has not begun to wait yet.
            notify.notify_one();
        }
    }

    /// Remembers whether it moves; true when that is a change. Those that nothing was heard of move.
    pub(super) fn set_moving(&self, id: &SandboxId, moves: bool) -> bool {
        let mut inner = self.lock();
        if moves {
            inner.paused.remove(id)
        } else {
            inner.paused.insert(id.clone())
        }
    }

    /// Nothing of it is left.
    pub(super) fn gone(&self, id: &SandboxId) {
        let mut inner = self.lock();
        inner.paused.remove(id);
        inner.wanted_memory.remove(id);
    }

    pub(super) fn out_of_memory(&self, id: &SandboxId) {
        self.lock().wanted_memory.insert(id.clone(), Instant::now());
    }

    /// Its first process has ended.
    pub(super) fn died(&self, id: &SandboxId, code: Option<i64>) {
        let mut inner = self.lock();
        inner.paused.remove(id);
        let wanted = inner.wanted_memory.remove(id);
        let just_now = wanted.is_some_and(|when| when.elapsed() < OF_THAT);
        if inner.ends.len() == ENDS {
            inner.ends.pop_front();
        }
        let of_memory = just_now && code == Some(KILLED);
        inner.ends.push_back((id.clone(), of_memory));
    }

    /// Whether it ended for want of memory; none when its end was not seen.
    pub(super) fn ended_of_memory(&self, id: &SandboxId) -> Option<bool> {
        let inner = self.lock();
        let found = inner.ends.iter().rev().find(|(ended, _)| ended == id);
        found.map(|(_, of_memory)| *of_memory)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change leaves it whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_kill_soon_after_want_of_memory_is_of_it() {
        let record = Record::default();
        let id = SandboxId::from_u32;
        for (number, wanted, wait, code, expected) in [
            (1, true, 1, Some(137), true),
            (2, true, 11, Some(137), false),
            (3, true, 1, Some(0), false),
            (4, false, 1, Some(137), false),
            (5, true, 1, None, false),
        ] {
            if wanted {
                record.out_of_memory(&id(number));
            }
            tokio::time::advance(Duration::from_secs(wait)).await;
            record.died(&id(number), code);
            assert_eq!(
                record.ended_of_memory(&id(number)),
                Some(expected),
                "{number}"
            );
        }
        assert_eq!(record.ended_of_memory(&id(9)), None);
    }

    #[tokio::test]
    async fn what_is_told_before_anybody_waits_is_heard_and_nothing_is_left() {
        let record = Record::default();
        let id = SandboxId::from_u32(1);
        let mut first = record.wait_for(&id);
        let second = record.wait_for(&id);
        record.tell(&id);
        first.told().await;
        drop((first, second));
        assert!(record.waited_for().is_empty());
    }

    #[test]
    fn only_a_change_is_one() {
        let record = Record::default();
        let id = SandboxId::from_u32(1);
        let changes = [true, false, false, true, true].map(|moves| record.set_moving(&id, moves));
        assert_eq!(changes, [false, true, false, true, false]);
    }
}
