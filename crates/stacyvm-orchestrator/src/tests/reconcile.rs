//! What the store says against what the backend has.

use std::sync::atomic::Ordering;
use std::time::Duration;

use stacyvm_provider::BoxState;
use stacyvm_types::{ErrorCode, SandboxId, SandboxState};

use crate::Caller;
use crate::tests::support::{Rig, argv, code, eventually, pass, request};

/// A little more than the interval of the test settings.
const INTERVAL: Duration = Duration::from_secs(61);

#[tokio::test(start_paused = true)]
async fn boxes_without_a_sandbox_are_destroyed_at_start_and_later() {
    let rig = Rig::new().await;
    let id = rig.spawn(r#"{"ttl":"10h"}"#).await.id;
    let orphan = SandboxId::from_u32(0xFFFF_FFFF);
    for state in [BoxState::Running, BoxState::Dead, BoxState::Partial] {
        rig.fake.plant(&orphan, state);
        pass(&rig, INTERVAL).await;
        eventually("the orphan is gone", || {
            rig.fake.ids() == [id.clone()].into()
        })
        .await;
    }
    rig.fake.plant(&orphan, BoxState::Running);
    let rig = rig.restart().await;
    eventually("the orphan is gone", || {
        rig.fake.ids() == [id.clone()].into()
    })
    .await;
    // Counted after the box has gone.
    eventually("it is counted", || {
        rig.orchestrator.metrics().reconcile_actions > 0
    })
    .await;
    assert_eq!(rig.orchestrator.metrics().reconcile_actions, 1);
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Running);
}

#[tokio::test(start_paused = true)]
async fn an_orphan_that_cannot_be_destroyed_is_tried_again() {
    let rig = Rig::new().await;
    rig.fake.plant(&SandboxId::from_u32(1), BoxState::Running);
    rig.fake.destroys_fail.store(1, Ordering::SeqCst);
    pass(&rig, INTERVAL).await;
    eventually("it was tried", || {
        rig.fake.destroys_tried.load(Ordering::SeqCst) == 1
    })
    .await;
    assert_eq!(rig.fake.ids().len(), 1);
    pass(&rig, INTERVAL).await;
    eventually("it is gone", || rig.fake.ids().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_box_in_the_making_is_no_orphan() {
    let rig = Rig::new().await;
    rig.fake.create_gate.shut();
    let orchestrator = rig.orchestrator.clone();
    let spawned = tokio::spawn(async move {
        let caller = Caller::default();
        orchestrator.spawn(&caller, request("{}"), None).await
    });
    eventually("it is half made", || rig.fake.ids().len() == 1).await;
    pass(&rig, INTERVAL).await;
    assert_eq!(rig.fake.destroys_tried.load(Ordering::SeqCst), 0);
    rig.fake.create_gate.open();
    let sandbox = spawned.await.unwrap().unwrap();
    assert_eq!(rig.fake.ids(), [sandbox.id].into());
}

#[tokio::test(start_paused = true)]
async fn a_box_that_came_up_while_the_backend_was_answering_is_not_lost() {
    let rig = Rig::new().await;
    rig.fake.list_gate.shut();
    pass(&rig, INTERVAL).await;
    // The backend's answer, still under way, does not know of this one.
    let id = rig.spawn("{}").await.id;
    rig.fake.list_gate.open();
    pass(&rig, Duration::from_millis(1)).await;
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_ended_of_a_limit_says_so() {
    let rig = Rig::new().await;
    *rig.fake.cause_of_end.lock().unwrap() = Some("memory");
    let id = rig.spawn("{}").await.id;
    rig.fake.kill(&id);
    let asked = || async {
        let command = argv(&["echo", "x"]);
        let run = rig.orchestrator.exec_captured(&rig.caller, &id, command);
        run.await.map(drop).unwrap_err().to_string()
    };
    let entry = rig.orchestrator.state.registry.get(&id).unwrap();
    eventually("it has a cause", || entry.ended_of.get().is_some()).await;
    let said = asked().await;
    assert!(said.contains("its memory limit was reached"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_ends_stops_its_sandbox_until_it_expires() {
    let rig = Rig::new().await;
    let id = rig.spawn(r#"{"ttl":"10m"}"#).await.id;
    rig.fake.kill(&id);
    let entry = rig.orchestrator.state.registry.get(&id).unwrap();
    eventually("it is stopped", || {
        entry.state() == Some(SandboxState::Stopped)
    })
    .await;
    let run = rig
        .orchestrator
        .exec_captured(&rig.caller, &id, argv(&["echo", "x"]));
    assert_eq!(code(run.await), ErrorCode::Conflict);
    let extended = rig.orchestrator.extend(&rig.caller, &id, "1h").await;
    assert_eq!(code(extended), ErrorCode::Conflict);
    let rig = rig.restart().await;
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Stopped);
    pass(&rig, Duration::from_secs(601)).await;
    eventually("it is gone", || rig.fake.ids().is_empty()).await;
    assert_eq!(rig.list().await, []);
}

#[tokio::test(start_paused = true)]
async fn what_ended_or_vanished_while_the_server_was_down_does_not_run() {
    let rig = Rig::new().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(rig.spawn(r#"{"ttl":"10m"}"#).await.id);
    }
    // Stopped first, so that no watcher of the old server notices.
    rig.orchestrator.state.lifetime.stop.cancel();
    pass(&rig, Duration::from_millis(1)).await;
    rig.fake.kill(&ids[0]);
    rig.fake.vanish(&ids[1]);
    rig.fake.plant(&ids[2], BoxState::Partial);
    let rig = rig.restart().await;
    let mut states = Vec::new();
    for id in &ids {
        states.push(rig.get(id).await.unwrap().state);
    }
    use SandboxState::{Error, Running, Stopped};
    assert_eq!(states, [Stopped, Error, Error, Running]);
    let run = rig
        .orchestrator
        .exec_captured(&rig.caller, &ids[3], argv(&["echo", "x"]));
    assert_eq!(run.await.unwrap().stdout, "x");
    pass(&rig, Duration::from_secs(601)).await;
    eventually("all are gone", || rig.fake.ids().is_empty()).await;
    assert_eq!(rig.list().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_box_that_vanishes_unnoticed_is_found_missing() {
    let rig = Rig::new().await;
    let id = rig.spawn(r#"{"ttl":"10h"}"#).await.id;
    rig.fake.vanish(&id);
    pass(&rig, INTERVAL).await;
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Error);
    let stored = rig.store.get(&id).await.unwrap().unwrap();
    assert_eq!(stored.state, stacyvm_store::StoredState::Error);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_cannot_be_asked_changes_nothing() {
    let rig = Rig::new().await;
    let id = rig.spawn(r#"{"ttl":"10h"}"#).await.id;
    rig.fake.list_fails.store(true, Ordering::SeqCst);
    pass(&rig, INTERVAL).await;
    let rig = rig.restart().await;
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Running);
    rig.fake.kill(&id);
    pass(&rig, INTERVAL).await;
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Running);
    rig.fake.list_fails.store(false, Ordering::SeqCst);
    pass(&rig, INTERVAL).await;
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Stopped);
}
