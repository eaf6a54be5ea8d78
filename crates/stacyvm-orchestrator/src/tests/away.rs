//! A backend that cannot be reached for a while: what needs it is refused, nothing is lost, and
//! when it is back everything is as it should be at once.

use std::time::Duration;

use stacyvm_types::{ErrorCode, EventId, SandboxState};

use crate::EventFilter;
use crate::tests::support::{Rig, argv, code, eventually, pass};

/// A little more than the interval of the health checks.
const CHECKED: Duration = Duration::from_secs(31);
/// A little more than the interval of the checks of what was not healthy.
const AGAIN: Duration = Duration::from_secs(6);

#[tokio::test(start_paused = true)]
async fn what_needs_it_is_refused_and_sandboxes_live_on() {
    let rig = Rig::new().await;
    let mut events = rig
        .orchestrator
        .events(&rig.caller, EventFilter::default(), Some(EventId(0)))
        .unwrap();
    let id = rig.spawn(r#"{"ttl":"10h"}"#).await.id;
    rig.fake.set_away(true);
    // Before anybody has checked, and after.
    assert_eq!(code(rig.try_spawn("{}").await), ErrorCode::Unavailable);
    for _ in 0..4 {
        pass(&rig, CHECKED).await;
    }
    assert_eq!(code(rig.try_spawn("{}").await), ErrorCode::Unavailable);
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Running);
    let run = rig
        .orchestrator
        .exec_captured(&rig.caller, &id, argv(&["echo", "x"]));
    assert_eq!(run.await.unwrap().stdout, "x");
    rig.fake.set_away(false);
    pass(&rig, AGAIN).await;
    assert_eq!(rig.orchestrator.ready(), Ok(()));
    // What the first refusal may have left there is removed.
    eventually("only that one is left", || {
        rig.fake.ids() == [id.clone()].into()
    })
    .await;
    rig.spawn("{}").await;
    let states: Vec<_> = rig.list().await.iter().map(|one| one.state).collect();
    assert_eq!(states, [SandboxState::Running; 2]);
    let told: Vec<_> = events.take().iter().map(|e| e.kind.to_string()).collect();
    let told: Vec<_> = told
        .iter()
        .filter(|word| word.starts_with("provider."))
        .collect();
    assert_eq!(told, ["provider.failed", "provider.recovered"]);
}

#[tokio::test(start_paused = true)]
async fn what_happened_meanwhile_is_known_at_once_when_it_is_back() {
    let rig = Rig::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(rig.spawn(r#"{"ttl":"10h"}"#).await.id);
    }
    rig.fake.set_away(true);
    pass(&rig, CHECKED).await;
    // A server that starts meanwhile takes everything for what it was.
    let rig = rig.restart().await;
    for id in &ids {
        assert_eq!(rig.get(id).await.unwrap().state, SandboxState::Running);
    }
    let run = rig
        .orchestrator
        .exec_captured(&rig.caller, &ids[0], argv(&["echo", "x"]));
    assert_eq!(code(run.await), ErrorCode::Unavailable);
    rig.fake.vanish(&ids[1]);
    rig.fake.set_moving(&ids[2], false);
    rig.fake.set_away(false);
    pass(&rig, AGAIN).await;
    let mut states = Vec::new();
    for id in &ids {
        states.push(rig.get(id).await.unwrap().state);
    }
    use SandboxState::{Error, Paused, Running};
    assert_eq!(states, [Running, Error, Paused]);
    let run = rig
        .orchestrator
        .exec_captured(&rig.caller, &ids[0], argv(&["echo", "x"]));
    assert_eq!(run.await.unwrap().stdout, "x");
    // And its end is followed again.
    rig.fake.kill(&ids[0]);
    let entry = rig.orchestrator.state.registry.get(&ids[0]).unwrap();
    eventually("it is stopped", || {
        entry.state() == Some(SandboxState::Stopped)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_destroyed_is_as_soon_as_it_is_back() {
    let rig = Rig::new().await;
    let id = rig.spawn(r#"{"ttl":"10h"}"#).await.id;
    rig.fake.set_away(true);
    let refused = rig.destroy(&id).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Unavailable);
    assert!(
        refused.to_string().contains("as soon as it is back"),
        "{refused}"
    );
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Error);
    // Long enough for the waits between attempts to have grown.
    for _ in 0..20 {
        pass(&rig, CHECKED).await;
    }
    rig.fake.set_away(false);
    pass(&rig, AGAIN).await;
    eventually("it is gone", || rig.fake.ids().is_empty()).await;
    assert_eq!(rig.list().await, []);
}
