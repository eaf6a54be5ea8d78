//! Spawns that wait for room: their order, their bounds and their ends.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stacyvm_types::{ErrorCode, Sandbox};
use tokio::task::JoinHandle;

use crate::tests::support::{Rig, code, eventually, pass, request, settings};
use crate::{Caller, Error, Settings};

const WAIT: Duration = Duration::from_secs(30);

async fn rig(max_sandboxes: u64, spawn_queue: usize) -> Rig {
    Rig::with(Settings {
        max_sandboxes,
        max_owner_sandboxes: 2,
        spawn_queue,
        spawn_queue_timeout: WAIT,
        ..settings()
    })
    .await
}

/// A spawn of its own task, which is in line when this returns.
async fn queued(rig: &Rig, owner: &str) -> JoinHandle<Result<Sandbox, Error>> {
    let orchestrator = rig.orchestrator.clone();
    let before = rig.waiting();
    let body = format!(r#"{{"owner_id":"{owner}"}}"#);
    let task = tokio::spawn(async move {
        orchestrator
            .spawn(&Caller::default(), request(&body), None)
            .await
    });
    eventually("the spawn waits", || rig.waiting() == before + 1).await;
    task
}

impl Rig {
    fn waiting(&self) -> usize {
        self.orchestrator.state.queue.waiting()
    }
}

fn retry(error: &Error) -> Duration {
    match error {
        Error::Full { retry_after, .. } => *retry_after,
        other => panic!("not full: {other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_came_first_is_served_first() {
    let rig = rig(1, 10).await;
    let mut alive = rig.spawn("{}").await;
    let served = Arc::new(Mutex::new(Vec::new()));
    let owners = ["a", "b", "c", "d", "e"];
    for owner in owners {
        let (task, served) = (queued(&rig, owner).await, Arc::clone(&served));
        tokio::spawn(async move {
            task.await.unwrap().unwrap();
            served.lock().unwrap().push(owner);
        });
    }
    for count in 1..=owners.len() {
        rig.destroy(&alive.id).await.unwrap();
        eventually("one is served", || served.lock().unwrap().len() == count).await;
        alive = rig.list().await.remove(0);
    }
    assert_eq!(*served.lock().unwrap(), owners);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_does_not_take_what_somebody_waits_for() {
    let rig = rig(1, 5).await;
    let state = Arc::clone(&rig.orchestrator.state);
    let mut earlier = state.queue.join(None, None).unwrap();
    earlier.wait(&state.registry.freed).await.unwrap();
    // There is room, but it is another's turn.
    let newcomer = queued(&rig, "a").await;
    pass(&rig, Duration::from_secs(1)).await;
    assert_eq!(rig.list().await.len(), 0);
    drop(earlier);
    newcomer.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_line_and_time_over_are_refused() {
    let rig = rig(1, 2).await;
    let first = rig.spawn(r#"{"ttl":"10s"}"#).await;
    rig.orchestrator
        .extend(&rig.caller, &first.id, "5m")
        .await
        .unwrap();
    let ask = async || {
        let asked = rig.orchestrator.admission(&rig.caller, request("{}"));
        let answer = asked.await.unwrap();
        (answer.allowed, answer.queueable)
    };
    assert_eq!(ask().await, (false, true));
    let one = queued(&rig, "a").await;
    pass(&rig, Duration::from_secs(1)).await;
    let two = queued(&rig, "b").await;
    assert_eq!(ask().await, (false, false));
    let third = rig.try_spawn("{}").await.unwrap_err();
    assert_eq!(third.code(), ErrorCode::ResourceLimit);
    assert_eq!(retry(&third), Duration::from_secs(30));

    pass(&rig, WAIT - Duration::from_secs(1)).await;
    let error = one.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("30s"), "{error}");
    assert_eq!(error.code(), ErrorCode::ResourceLimit);
    assert_eq!(rig.waiting(), 1);
    // The second has a second left, and the turn.
    rig.destroy(&first.id).await.unwrap();
    two.await.unwrap().unwrap();
    assert_eq!(rig.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_leaves_the_line() {
    let rig = rig(1, 5).await;
    let first = rig.spawn("{}").await;
    let head = queued(&rig, "a").await;
    let middle = queued(&rig, "b").await;
    let last = queued(&rig, "c").await;
    middle.abort();
    eventually("the middle has left", || rig.waiting() == 2).await;
    head.abort();
    eventually("the head has left", || rig.waiting() == 1).await;
    rig.destroy(&first.id).await.unwrap();
    let served = last.await.unwrap().unwrap();
    assert_eq!(served.owner_id.unwrap().as_str(), "c");
    assert_eq!(rig.list().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn life_begins_when_the_wait_is_over() {
    let rig = rig(1, 5).await;
    let first = rig.spawn("{}").await;
    let waiting = queued(&rig, "a").await;
    pass(&rig, Duration::from_secs(20)).await;
    rig.destroy(&first.id).await.unwrap();
    let sandbox = waiting.await.unwrap().unwrap();
    let since = sandbox.created_at.saturating_since(first.created_at);
    assert!(since >= Duration::from_secs(20), "{since:?}");
    let lives = sandbox.expires_at.saturating_since(sandbox.created_at);
    assert_eq!(lives, Settings::default().default_ttl);
}

#[tokio::test(start_paused = true)]
async fn one_owner_cannot_fill_the_line() {
    let rig = rig(2, 10).await;
    rig.spawn(r#"{"owner_id":"a"}"#).await;
    rig.spawn(r#"{"owner_id":"x"}"#).await;
    // Two are allowed, one is alive: one may wait, and the next is refused at once.
    let _one = queued(&rig, "a").await;
    let refused = rig.try_spawn(r#"{"owner_id":"a"}"#).await.unwrap_err();
    assert!(refused.to_string().contains("this owner"), "{refused}");
    let _other = queued(&rig, "b").await;
    assert_eq!(rig.waiting(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_sends_the_line_away() {
    let rig = rig(1, 5).await;
    rig.spawn("{}").await;
    let head = queued(&rig, "a").await;
    let next = queued(&rig, "b").await;
    rig.orchestrator.shutdown(Duration::from_secs(60)).await;
    for waiting in [head, next] {
        assert_eq!(code(waiting.await.unwrap()), ErrorCode::Unavailable);
    }
}

#[tokio::test]
async fn without_a_line_a_full_house_is_refused_at_once() {
    let rig = rig(1, 0).await;
    rig.spawn(r#"{"ttl":"5s"}"#).await;
    let error = rig.try_spawn("{}").await.unwrap_err();
    let retry = retry(&error);
    assert!(
        retry >= Duration::from_secs(1) && retry <= Duration::from_secs(5),
        "{retry:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn only_so_many_boxes_are_made_at_once() {
    let rig = Rig::with(Settings {
        concurrent_creates: 2,
        ..settings()
    })
    .await;
    rig.fake.create_gate.shut();
    let tasks: Vec<_> = (0..5)
        .map(|_| {
            let orchestrator = rig.orchestrator.clone();
            tokio::spawn(async move {
                let caller = Caller::default();
                orchestrator.spawn(&caller, request("{}"), None).await
            })
        })
        .collect();
    eventually("two are being made", || rig.making() == 2).await;
    pass(&rig, Duration::from_millis(1)).await;
    assert_eq!(rig.making(), 2);
    rig.fake.create_gate.open();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(rig.fake.ids().len(), 5);
    assert!(rig.fake.healthy.load(Ordering::SeqCst));
}

impl Rig {
    /// Boxes whose making has begun.
    fn making(&self) -> usize {
        self.fake.specs.lock().unwrap().len()
    }
}
