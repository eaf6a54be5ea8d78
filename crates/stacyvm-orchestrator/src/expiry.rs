//! The times at which sandboxes expire and are to be destroyed, in one ordered set.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use stacyvm_types::{SandboxId, Timestamp};

/// Sandboxes ordered by the time at which they expire. Every change is O(log n).
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
    pub(crate) fn take_due(&self, now: Timestamp) -> Vec<SandboxId> {
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

    fn lock(&self) -> parking_lot::MutexGuard<'_, BTreeSet<(Timestamp, SandboxId)>> {
        // A set is whole after any panic of its users: each change is one call.
        self.set.lock()
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
