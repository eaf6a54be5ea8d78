//! One reader's place among the events.

use std::sync::Arc;

use stacyvm_types::{
    Event, EventData, EventId, EventType, EventTypes, OwnerId, SandboxId, Timestamp,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Events, Published, Ring};

/// Events handed out at once.
const BATCH: usize = 64;
/// Events looked at under one lock; a reader that wants few of them must not hold the others up.
const LOOKS: u64 = 512;

/// What a subscription is narrowed to; every part must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFilter {
    /// Only these types.
    pub types: EventTypes,
    /// Only what happened to this sandbox.
    pub sandbox: Option<SandboxId>,
}

impl Default for EventFilter {
    /// Everything.
    fn default() -> Self {
        Self {
            types: EventTypes::ALL,
            sandbox: None,
        }
    }
}

/// The events that a reader may and wants to see.
#[derive(Debug)]
pub(crate) struct EventScope {
    pub(crate) filter: EventFilter,
    /// In pool mode, an owner sees only what happens to their own sandboxes.
    pub(crate) only: Option<OwnerId>,
}

impl EventScope {
    fn sees(&self, published: &Published) -> bool {
        let event = &published.event;
        self.filter.types.contains(event.kind)
            && self
                .filter
                .sandbox
                .as_ref()
                .is_none_or(|wanted| event.sandbox_id.as_ref() == Some(wanted))
            && self
                .only
                .as_ref()
                .is_none_or(|owner| published.owner.as_ref() == Some(owner))
    }
}

/// Why events are missing in front of the next one.
#[derive(Clone, Copy, Debug)]
enum Gap {
    /// The reader was too slow: so many that it would have seen.
    Slow(u64),
    /// The id that it went on from is older than what is kept: so many events of any kind, known
    /// or not to be for it.
    Forgotten(u64),
    /// The id was given out before this start of the server; the number is unknown.
    Restarted,
}

impl Gap {
    /// As the reader hears of it. The id is such that who goes on from it misses nothing more.
    fn told(self, id: EventId, timestamp: Timestamp) -> Event {
        let data = match self {
            Self::Slow(count) => EventData::none()
                .with("reason", "slow")
                .with("count", count),
            Self::Forgotten(count) => EventData::none()
                .with("reason", "history")
                .with("count", count),
            Self::Restarted => EventData::none().with("reason", "restart"),
        };
        Event {
            id,
            kind: EventType::EventsLost,
            sandbox_id: None,
            timestamp,
            data,
        }
    }
}

/// A reader, as the ring knows it.
#[derive(Debug)]
pub(super) struct Reader {
    scope: Arc<EventScope>,
    /// The next event to look at.
    next: u64,
    gap: Option<Gap>,
}

impl Reader {
    /// Takes note that an event leaves the ring.
    pub(super) fn miss(&mut self, published: &Published) {
        let id = published.event.id.0;
        if self.next > id {
            return;
        }
        self.next = id + 1;
        if self.scope.sees(published) {
            self.gap = Some(match self.gap {
                None => Gap::Slow(1),
                Some(Gap::Slow(count)) => Gap::Slow(count + 1),
                Some(Gap::Forgotten(count)) => Gap::Forgotten(count + 1),
                Some(Gap::Restarted) => Gap::Restarted,
            });
        }
    }
}

/// A reader's end of the events. Dropping it ends the reading.
#[derive(Debug)]
pub struct Subscription {
    events: Arc<Events>,
    number: u64,
    newest: watch::Receiver<u64>,
    stop: CancellationToken,
}

impl Subscription {
    pub(crate) fn new(
        events: Arc<Events>,
        scope: EventScope,
        after: Option<EventId>,
        stop: CancellationToken,
    ) -> Self {
        let newest = events.newest.subscribe();
        let mut inner = events.lock();
        let (next, gap) = inner.place(after);
        let number = inner.next_reader;
        inner.next_reader += 1;
        let scope = Arc::new(scope);
        inner.readers.insert(number, Reader { scope, next, gap });
        drop(inner);
        Self {
            events,
            number,
            newest,
            stop,
        }
    }

    /// The next events, oldest first, at least one; none when the orchestrator stops and
    /// everything before that was handed out. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Vec<Arc<Event>>> {
        loop {
            self.newest.mark_unchanged();
            let batch = self.take();
            if !batch.is_empty() {
                return Some(batch);
            }
            tokio::select! {
                biased;
                changed = self.newest.changed() => changed.ok()?,
                () = self.stop.cancelled() => {
                    // What was published while we looked.
                    return Some(self.take()).filter(|batch| !batch.is_empty());
                }
            }
        }
    }

    /// What is there now and was not handed out yet, up to a batch.
    pub(crate) fn take(&mut self) -> Vec<Arc<Event>> {
        let now = self.events.clock.now();
        let mut batch = Vec::new();
        loop {
            let more = self.events.lock().read(self.number, now, &mut batch);
            if !more || batch.len() >= BATCH {
                return batch;
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.events.lock().readers.remove(&self.number);
    }
}

impl Ring {
    /// Where a reader begins that has seen everything up to `after`.
    fn place(&self, after: Option<EventId>) -> (u64, Option<Gap>) {
        let oldest = self.oldest();
        match after {
            None => (self.newest + 1, None),
            Some(EventId(0)) => (oldest, None),
            // A greater one than any that was given out: the clock was set back.
            Some(EventId(seen)) if seen < self.start || seen > self.newest => {
                (oldest, Some(Gap::Restarted))
            }
            Some(EventId(seen)) if seen + 1 < oldest => {
                (oldest, Some(Gap::Forgotten(oldest - seen - 1)))
            }
            Some(EventId(seen)) => (seen + 1, None),
        }
    }

    /// Reads on for one reader; whether there may be more.
    fn read(&mut self, number: u64, now: Timestamp, batch: &mut Vec<Arc<Event>>) -> bool {
        let oldest = self.oldest();
        let Some(reader) = self.readers.get_mut(&number) else {
            return false;
        };
        if let Some(gap) = reader.gap.take() {
            batch.push(Arc::new(gap.told(EventId(reader.next - 1), now)));
        }
        let place = |id: u64| usize::try_from(id - oldest).expect("the ring has its length");
        let until = reader.next.saturating_add(LOOKS).min(self.newest + 1);
        for published in self.ring.range(place(reader.next)..place(until)) {
            reader.next += 1;
            if reader.scope.sees(published) {
                batch.push(Arc::clone(&published.event));
                if batch.len() >= BATCH {
                    break;
                }
            }
        }
        reader.next <= self.newest
    }
}
