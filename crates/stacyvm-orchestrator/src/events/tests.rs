//! The ring alone: who hears what, and what a slow or late reader is told.

use std::time::Duration;

use stacyvm_types::{EventTypes, EventValue};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::subscription::EventScope;
use super::*;
use crate::clock::SystemClock;

fn events(capacity: usize) -> Arc<Events> {
    Arc::new(Events::new(capacity, Arc::new(SystemClock)))
}

fn publish(events: &Events, kind: EventType, sandbox: u32, owner: Option<&str>) {
    let owner = owner.map(|owner| owner.parse().unwrap());
    let sandbox = SandboxId::from_u32(sandbox);
    events.publish(kind, Some(&sandbox), owner.as_ref(), EventData::none());
}

fn many(events: &Events, count: u64) {
    for _ in 0..count {
        publish(events, EventType::FileRead, 1, None);
    }
}

fn all() -> EventScope {
    EventScope {
        filter: EventFilter::default(),
        only: None,
    }
}

fn follow(events: &Arc<Events>, sight: EventScope, after: Option<u64>) -> Subscription {
    let after = after.map(EventId);
    Subscription::new(Arc::clone(events), sight, after, CancellationToken::new())
}

fn drain(reader: &mut Subscription) -> Vec<Arc<Event>> {
    let mut all = Vec::new();
    loop {
        let batch = reader.take();
        if batch.is_empty() {
            return all;
        }
        all.extend(batch);
    }
}

fn lost(event: &Event) -> (Option<&EventValue>, Option<&EventValue>) {
    assert_eq!(event.kind, EventType::EventsLost);
    (event.data.get("reason"), event.data.get("count"))
}

fn said(reason: &'static str) -> EventValue {
    reason.into()
}

#[test]
fn a_stalled_reader_is_told_how_many_it_missed_and_others_miss_none() {
    let events = events(1000);
    let mut stalled = follow(&events, all(), None);
    let mut quick = follow(&events, all(), None);
    let mut heard = Vec::new();
    for _ in 0..100 {
        many(&events, 100);
        heard.extend(drain(&mut quick));
    }
    assert_eq!(heard.len(), 10_000);
    let ids: Vec<u64> = heard.iter().map(|event| event.id.0).collect();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1));
    {
        // What is held is what was asked for, however far behind a reader is.
        let inner = events.lock();
        assert_eq!((inner.ring.len(), inner.readers.len()), (1000, 2));
        assert!(inner.bytes <= MAX_BYTES);
    }
    let late = drain(&mut stalled);
    assert_eq!(
        lost(&late[0]),
        (Some(&said("slow")), Some(&9000_u64.into()))
    );
    assert_eq!(late[0].id.0, ids[8999]);
    assert_eq!(late.len(), 1001);
    let rest: Vec<u64> = late[1..].iter().map(|event| event.id.0).collect();
    assert_eq!(rest, ids[9000..]);
    drop((stalled, quick));
    assert!(events.lock().readers.is_empty());
}

#[test]
fn what_a_reader_missed_is_counted_by_its_own_filter() {
    let events = events(10);
    let mut sight = all();
    sight.filter.types = "sandbox.*".parse().unwrap();
    let mut stalled = follow(&events, sight, None);
    let mut nothing = all();
    nothing.filter.types = "provider.*".parse().unwrap();
    let mut content = follow(&events, nothing, None);
    for _ in 0..5 {
        publish(&events, EventType::SandboxRunning, 1, None);
        many(&events, 20);
    }
    let heard = drain(&mut stalled);
    assert_eq!(heard.len(), 1);
    assert_eq!(lost(&heard[0]).1, Some(&5_u64.into()));
    assert!(
        drain(&mut content).is_empty(),
        "it missed nothing it wanted"
    );
}

#[test]
fn memory_is_bounded_whatever_the_events_hold() {
    let events = events(10_000);
    for _ in 0..1000 {
        let data = EventData::none().with("path", "x".repeat(64 * 1024));
        events.publish(EventType::FileRead, None, None, data);
    }
    let inner = events.lock();
    assert!(inner.bytes <= MAX_BYTES && inner.ring.len() < 200);
    let held = inner.ring.iter().map(|published| weight(&published.event));
    assert_eq!(held.sum::<usize>(), inner.bytes);
}

#[test]
fn who_comes_back_gets_exactly_what_came_since() {
    let events = events(100);
    let start = events.lock().start;
    many(&events, 50);
    let ids = |after| -> Vec<u64> {
        let mut reader = follow(&events, all(), after);
        drain(&mut reader).iter().map(|event| event.id.0).collect()
    };
    assert!(ids(None).is_empty());
    assert_eq!(ids(Some(0)), (start + 1..=start + 50).collect::<Vec<_>>());
    assert_eq!(ids(Some(start)).len(), 50);
    assert_eq!(
        ids(Some(start + 20)),
        (start + 21..=start + 50).collect::<Vec<_>>()
    );
    assert!(ids(Some(start + 50)).is_empty());
    // Ids 1 to 150 fall out; who has seen 20 misses 130, and goes on after the last of them.
    many(&events, 200);
    let mut reader = follow(&events, all(), Some(start + 20));
    let heard = drain(&mut reader);
    let told = lost(&heard[0]);
    assert_eq!(told, (Some(&said("history")), Some(&130_u64.into())));
    assert_eq!((heard[0].id.0, heard.len()), (start + 150, 101));
    assert_eq!(ids(Some(heard[0].id.0)).len(), 100);
    assert_eq!(ids(Some(0)).len(), 100, "all there is, and nothing missed");
    // Ids from an earlier start of the server, or made up.
    for foreign in [start - 7, start + 251] {
        let mut reader = follow(&events, all(), Some(foreign));
        let heard = drain(&mut reader);
        assert_eq!(lost(&heard[0]), (Some(&said("restart")), None));
        assert_eq!(heard.len(), 101);
    }
}

#[test]
fn filters_and_owners_narrow_what_is_heard() {
    let events = events(100);
    for (kind, sandbox, owner) in [
        (EventType::SandboxCreated, 1, Some("ann")),
        (EventType::ExecStarted, 1, Some("ann")),
        (EventType::SandboxCreated, 2, Some("bob")),
        (EventType::SandboxRunning, 3, None),
    ] {
        publish(&events, kind, sandbox, owner);
    }
    events.publish(EventType::ProviderFailed, None, None, EventData::none());
    let count = |types: EventTypes, sandbox: Option<u32>, only: Option<&str>| {
        let filter = EventFilter {
            types,
            sandbox: sandbox.map(SandboxId::from_u32),
        };
        let only = only.map(|owner| owner.parse().unwrap());
        drain(&mut follow(&events, EventScope { filter, only }, Some(0))).len()
    };
    let sandboxes: EventTypes = "sandbox.*".parse().unwrap();
    assert_eq!(count(EventTypes::ALL, None, None), 5);
    assert_eq!(count(sandboxes, None, None), 3);
    assert_eq!(count(EventTypes::ALL, Some(1), None), 2);
    assert_eq!(count(sandboxes, Some(1), None), 1);
    assert_eq!(count(EventTypes::ALL, None, Some("ann")), 2);
    assert_eq!(count(EventTypes::ALL, Some(2), Some("ann")), 0);
    assert_eq!(count(EventTypes::ALL, None, Some("eve")), 0);
}

#[tokio::test]
async fn a_waiting_reader_hears_at_once_and_ends_with_the_server() {
    let events = events(100);
    let stop = CancellationToken::new();
    let mut reader = Subscription::new(Arc::clone(&events), all(), None, stop.clone());
    let patience = Duration::from_secs(20);
    let waiting = tokio::spawn(async move {
        let first = reader.next().await.unwrap();
        (first.len(), reader)
    });
    tokio::task::yield_now().await;
    publish(&events, EventType::ExecStarted, 1, None);
    let (count, mut reader) = timeout(patience, waiting).await.unwrap().unwrap();
    assert_eq!(count, 1);
    publish(&events, EventType::ExecCompleted, 1, None);
    stop.cancel();
    let last = timeout(patience, reader.next()).await.unwrap().unwrap();
    assert_eq!(last[0].kind, EventType::ExecCompleted);
    assert!(timeout(patience, reader.next()).await.unwrap().is_none());
}
