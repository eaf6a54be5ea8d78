//! When which sandbox is to be destroyed: one ordered set for all of them.
//!
//! The wall clock is read at least every half second whatever the next expiry is, so a clock
//! that jumps, or a machine that slept, is noticed within that time. The task only tells owners;
//! it never waits for one, so a stuck destroy delays nobody.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stacyvm_types::{SandboxId, Timestamp};
use tokio::sync::mpsc::error::TrySendError;

use crate::sandbox::{Command, Why};
use crate::shared::Shared;

/// The longest time between two looks at the clock.
const LOOK: Duration = Duration::from_millis(500);

/// The set. Every change is O(log n).
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    set: Mutex<BTreeSet<(Timestamp, SandboxId)>>,
}

impl Expiry {
    pub(crate) fn schedule(&self, id: &SandboxId, at: Timestamp) {
        self.lock().insert((at, id.clone()));
    }

    pub(crate) fn cancel(&self, id: &SandboxId, at: Timestamp) {
        self.lock().remove(&(at, id.clone()));
    }

    /// Takes out what is due.
    fn take_due(&self, now: Timestamp) -> Vec<SandboxId> {
        let mut set = self.lock();
        let mut due = Vec::new();
        while set.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(set.pop_first().map(|(_, id)| id));
        }
        due
    }

    /// The soonest.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.lock().first().map(|(at, _)| *at)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<(Timestamp, SandboxId)>> {
        // A set is whole after any panic of its users: each change is one call.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells owners that their sandbox's time is over, until the orchestrator stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let now = shared.clock.now();
        for id in shared.expiry.take_due(now) {
            let Some(entry) = shared.registry.get(&id) else {
                continue;
            };
            let command = Command::Destroy {
                why: Why::Expired,
                reply: None,
                span: tracing::Span::none(),
            };
            if let Err(TrySendError::Full(_)) = entry.commands.try_send(command) {
                shared.expiry.schedule(&id, now.saturating_add(LOOK));
            }
        }
        let wait = shared.expiry.next().map_or(LOOK, |at| {
            at.saturating_since(shared.clock.now())
                .clamp(Duration::from_millis(1), LOOK)
        });
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_out_once_and_in_order() {
        let expiry = Expiry::default();
        let at = Timestamp::from_unix_micros;
        let id = SandboxId::from_u32;
        expiry.schedule(&id(3), at(30));
        expiry.schedule(&id(1), at(10));
        expiry.schedule(&id(2), at(20));
        expiry.schedule(&id(4), at(20));
        expiry.cancel(&id(4), at(20));
        assert_eq!(expiry.next(), Some(at(10)));
        assert_eq!(expiry.take_due(at(9)), []);
        assert_eq!(expiry.take_due(at(20)), [id(1), id(2)]);
        assert_eq!(expiry.take_due(at(20)), []);
        assert_eq!(expiry.next(), Some(at(30)));
    }
}
