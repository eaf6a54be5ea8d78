//! Sandboxes that are paused outside StacyVM.

use std::time::Duration;

use stacyvm_provider::{BoxState, Notice};
use stacyvm_types::{ErrorCode, EventId, ExecId, SandboxId, SandboxState};

use crate::tests::support::{Rig, argv, code, eventually, pass, settle};
use crate::{EventFilter, Subscription};

/// A little more than the interval of the test settings.
const INTERVAL: Duration = Duration::from_secs(61);

/// Stops or resumes a box, and tells as a provider does that notices.
fn set_moving(rig: &Rig, id: &SandboxId, moving: bool) {
    rig.fake.set_moving(id, moving);
    tell(rig, id, moving);
}

fn tell(rig: &Rig, id: &SandboxId, moving: bool) {
    let id = id.clone();
    rig.fake.notices.tell(if moving {
        Notice::Resumed { id }
    } else {
        Notice::Paused { id }
    });
}

async fn reaches(rig: &Rig, id: &SandboxId, state: SandboxState) {
    let entry = rig.orchestrator.state.registry.get(id).unwrap();
    eventually(state.as_str(), || entry.state() == Some(state)).await;
    // What is shown is told a moment later.
    settle(rig).await;
}

fn told(rig: &Rig) -> Subscription {
    rig.orchestrator
        .events(&rig.caller, EventFilter::default(), Some(EventId(0)))
        .unwrap()
}

/// The events about being paused that came since the last look.
fn words(events: &mut Subscription) -> Vec<String> {
    let all = events
        .take()
        .into_iter()
        .map(|event| event.kind.to_string());
    all.filter(|word| word.ends_with("paused") || word.ends_with("resumed"))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_paused_sandbox_shows_so_and_refuses_until_it_goes_on() {
    let rig = Rig::new().await;
    let mut events = told(&rig);
    let id = rig.spawn(r#"{"ttl":"10h"}"#).await.id;
    set_moving(&rig, &id, false);
    reaches(&rig, &id, SandboxState::Paused).await;
    let run = rig
        .orchestrator
        .exec_captured(&rig.caller, &id, argv(&["echo", "x"]));
    let refused = run.await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Conflict);
    assert!(
        refused.to_string().contains("resume them there"),
        "{refused}"
    );
    let inside = rig.orchestrator.sandbox(&rig.caller, &id).await;
    assert_eq!(code(inside), ErrorCode::Conflict);
    let killed = rig.orchestrator.kill_exec(&rig.caller, &id, ExecId(1));
    assert_eq!(code(killed.await), ErrorCode::Conflict);
    let later = rig.orchestrator.extend(&rig.caller, &id, "20h");
    assert_eq!(later.await.unwrap().state, SandboxState::Paused);
    // A second report and a pass of the reconciler add no event.
    tell(&rig, &id, false);
    pass(&rig, INTERVAL).await;
    set_moving(&rig, &id, true);
    reaches(&rig, &id, SandboxState::Running).await;
    tell(&rig, &id, true);
    pass(&rig, INTERVAL).await;
    let run = rig
        .orchestrator
        .exec_captured(&rig.caller, &id, argv(&["echo", "x"]));
    assert_eq!(run.await.unwrap().stdout, "x");
    assert_eq!(words(&mut events), ["sandbox.paused", "sandbox.resumed"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_a_sandbox_when_it_is_paused_is_answered_and_a_command_goes_on() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let (orchestrator, caller, name) = (rig.orchestrator.clone(), rig.caller.clone(), id.clone());
    let command = tokio::spawn(async move {
        let command = argv(&["again"]);
        orchestrator.exec_captured(&caller, &name, command).await
    });
    eventually("it runs", || rig.orchestrator.metrics().active_execs == 1).await;
    // The pause has not been reported yet: these calls reach the box and wait.
    rig.fake.set_moving(&id, false);
    let inside = rig.orchestrator.sandbox(&rig.caller, &id);
    let inside = inside.await.unwrap();
    let stat = tokio::spawn(async move { inside.stat("/x").await });
    let (orchestrator, caller, name) = (rig.orchestrator.clone(), rig.caller.clone(), id.clone());
    let exec = tokio::spawn(async move {
        let command = argv(&["echo", "x"]);
        orchestrator.exec_captured(&caller, &name, command).await
    });
    settle(&rig).await;
    assert!(!stat.is_finished() && !exec.is_finished());
    tell(&rig, &id, false);
    eventually("both are answered", || {
        stat.is_finished() && exec.is_finished()
    })
    .await;
    let error = stat.await.unwrap().unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict);
    assert_eq!(code(exec.await.unwrap()), ErrorCode::Conflict);
    assert!(!command.is_finished());
    set_moving(&rig, &id, true);
    assert_eq!(command.await.unwrap().unwrap().stdout, "again");
}

#[tokio::test(start_paused = true)]
async fn a_paused_sandbox_expires_ends_and_is_destroyed_like_any_other() {
    let rig = Rig::new().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let id = rig.spawn(r#"{"ttl":"10m"}"#).await.id;
        set_moving(&rig, &id, false);
        reaches(&rig, &id, SandboxState::Paused).await;
        ids.push(id);
    }
    rig.destroy(&ids[0]).await.unwrap();
    assert!(!rig.fake.ids().contains(&ids[0]));
    rig.fake.kill(&ids[1]);
    reaches(&rig, &ids[1], SandboxState::Stopped).await;
    rig.fake.vanish(&ids[2]);
    pass(&rig, INTERVAL).await;
    reaches(&rig, &ids[2], SandboxState::Error).await;
    pass(&rig, Duration::from_secs(600)).await;
    eventually("all are gone", || rig.fake.ids().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_told_of_is_noticed_by_looking_also_after_a_restart() {
    let rig = Rig::new().await;
    let id = rig.spawn(r#"{"ttl":"10h"}"#).await.id;
    rig.fake.set_moving(&id, false);
    pass(&rig, INTERVAL).await;
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Paused);
    let rig = rig.restart().await;
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Paused);
    let mut events = told(&rig);
    rig.fake.set_moving(&id, true);
    pass(&rig, INTERVAL).await;
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Running);
    rig.fake.kill(&id);
    reaches(&rig, &id, SandboxState::Stopped).await;
    assert_eq!(words(&mut events), ["sandbox.paused", "sandbox.resumed"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_before_the_news_does_not_undo_them() {
    let rig = Rig::new().await;
    let mut events = told(&rig);
    let id = rig.spawn(r#"{"ttl":"10h"}"#).await.id;
    rig.fake.list_gate.shut();
    pass(&rig, INTERVAL).await;
    // The answer under way says that it runs.
    set_moving(&rig, &id, false);
    reaches(&rig, &id, SandboxState::Paused).await;
    rig.fake.list_gate.open();
    pass(&rig, Duration::from_millis(1)).await;
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Paused);
    assert_eq!(words(&mut events), ["sandbox.paused"]);
}

#[tokio::test(start_paused = true)]
async fn a_box_paused_in_the_making_is_noticed_when_it_is_made() {
    let rig = Rig::new().await;
    rig.fake.create_gate.shut();
    let (orchestrator, caller) = (rig.orchestrator.clone(), rig.caller.clone());
    let spawned = tokio::spawn(async move {
        let request = crate::tests::support::request("{}");
        orchestrator.spawn(&caller, request, None).await
    });
    eventually("it is half made", || rig.fake.ids().len() == 1).await;
    let id = rig.fake.ids().into_iter().next().unwrap();
    tell(&rig, &id, false);
    settle(&rig).await;
    rig.fake.create_gate.open();
    spawned.await.unwrap().unwrap();
    reaches(&rig, &id, SandboxState::Paused).await;
    rig.fake.plant(&id, BoxState::Paused);
    rig.destroy(&id).await.unwrap();
}
