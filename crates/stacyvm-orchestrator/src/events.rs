//! What happened, for those who follow it: one bounded ring of the newest events, and readers that
//! each have a place in it.
//!
//! Publishing is one push, and with a full ring a look at each reader's place, under a lock that
//! is never held for longer, however slow a reader is. A reader has no queue of its own: all share
//! the ring. One that falls out of it goes on with the oldest event that is left and is told how many it missed.

mod subscription;

pub use subscription::{EventFilter, Subscription};

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use stacyvm_types::{Event, EventData, EventId, EventType, OwnerId, SandboxId, Timestamp};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::facts::SandboxFacts;
pub(crate) use subscription::EventScope;
use subscription::Reader;

/// Memory of the ring, whatever the events are like, bytes.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// What an event takes beside its texts, bytes.
const BASE_BYTES: usize = 256;
/// Ids that a server may give out for each millisecond that it lives without running into those
/// of its next start. 2^12 keeps ids below 2^53, which is where JavaScript's numbers end.
const IDS_PER_MILLISECOND: u64 = 1 << 12;

/// An event and the owner of its sandbox.
#[derive(Debug)]
struct Published {
    event: Arc<Event>,
    owner: Option<OwnerId>,
}

/// The ring and its readers.
#[derive(Debug)]
pub(crate) struct Events {
    clock: Arc<dyn Clock>,
    inner: Mutex<Ring>,
    /// The newest id, for readers that wait.
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    /// Before the first event of this server's life.
    start: u64,
    newest: u64,
    /// Ids without a gap, oldest first.
    ring: VecDeque<Published>,
    bytes: usize,
    capacity: usize,
    readers: HashMap<u64, Reader>,
    next_reader: u64,
}

impl Events {
    /// Keeps the newest `capacity` events. Ids begin where the clock stands, so that they are
    /// greater than those of any earlier start without anything being stored.
    pub(crate) fn new(capacity: usize, clock: Arc<dyn Clock>) -> Self {
        let millis = u64::try_from(clock.now().unix_micros() / 1000).unwrap_or(0);
        let start = millis.saturating_mul(IDS_PER_MILLISECOND);
        Self {
            clock,
            inner: Mutex::new(Ring {
                start,
                newest: start,
                ring: VecDeque::new(),
                bytes: 0,
                capacity: capacity.max(1),
                readers: HashMap::new(),
                next_reader: 0,
            }),
            newest: watch::Sender::new(start),
        }
    }

    /// Tells everybody. Never waits; `data` must hold nothing secret.
    pub(crate) fn publish(
        &self,
        kind: EventType,
        sandbox: Option<&SandboxId>,
        owner: Option<&OwnerId>,
        data: EventData,
    ) {
        let (sandbox_id, owner) = (sandbox.cloned(), owner.cloned());
        let mut inner = self.lock();
        // Inside the lock, so that times and ids have one order.
        let timestamp = self.clock.now();
        let newest = inner.push(kind, sandbox_id, owner, timestamp, data);
        drop(inner);
        // Publishers may overtake each other here, and then the smaller number comes last. A
        // reader only takes it as a sign to look.
        self.newest.send_replace(newest);
    }

    /// The same for something about a known sandbox.
    pub(crate) fn of(&self, sandbox: &SandboxFacts, kind: EventType, data: EventData) {
        self.publish(kind, Some(&sandbox.id), sandbox.owner.as_ref(), data);
    }

    /// How many readers follow.
    pub(crate) fn reader_count(&self) -> usize {
        self.lock().readers.len()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // Whole after any panic: counters are changed beside the pushes they count.
        self.inner.lock()
    }
}

impl Ring {
    fn push(
        &mut self,
        kind: EventType,
        sandbox_id: Option<SandboxId>,
        owner: Option<OwnerId>,
        timestamp: Timestamp,
        data: EventData,
    ) -> u64 {
        self.newest += 1;
        let event = Event {
            id: EventId(self.newest),
            kind,
            sandbox_id,
            timestamp,
            data,
        };
        self.bytes += weight(&event);
        let event = Arc::new(event);
        self.ring.push_back(Published { event, owner });
        while self.ring.len() > self.capacity || (self.bytes > MAX_BYTES && self.ring.len() > 1) {
            let Some(oldest) = self.ring.pop_front() else {
                break;
            };
            self.bytes -= weight(&oldest.event);
            for reader in self.readers.values_mut() {
                reader.miss(&oldest);
            }
        }
        self.newest
    }

    /// The id of the oldest event that is left, or the next one's.
    fn oldest(&self) -> u64 {
        let left = u64::try_from(self.ring.len()).expect("a length fits");
        self.newest + 1 - left
    }
}

fn weight(event: &Event) -> usize {
    BASE_BYTES + event.data.weight()
}

#[cfg(test)]
mod tests;
