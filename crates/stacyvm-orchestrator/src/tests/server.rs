//! Starting, health, figures, shutting down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stacyvm_provider::Provider;
use stacyvm_types::{ErrorCode, SandboxState};

use crate::tests::fake::Fake;
use crate::tests::support::{Rig, argv, code, eventually, settings, settle};
use crate::{Operation, Settings, StartError};

#[tokio::test]
async fn an_unhealthy_provider_refuses_until_it_has_recovered() {
    let rig = Rig::new().await;
    assert_eq!(rig.orchestrator.ready(), Ok(()));
    let before = rig.fake.checks.load(Ordering::SeqCst);
    rig.orchestrator.ready().unwrap();
    rig.orchestrator.providers().await;
    assert_eq!(rig.fake.checks.load(Ordering::SeqCst), before);

    rig.fake.healthy.store(false, Ordering::SeqCst);
    let rig = rig.restart().await;
    let why = rig.orchestrator.ready().unwrap_err();
    assert_eq!(why, "provider fake is not healthy: it is down");
    assert_eq!(code(rig.try_spawn("{}").await), ErrorCode::Unavailable);
    let info = rig.orchestrator.providers().await.remove(0);
    assert!(!info.healthy && info.default);
    assert_eq!(info.capabilities, ["disk-limit", "exec", "network-none"]);
    rig.fake.healthy.store(true, Ordering::SeqCst);
    let rig = rig.restart().await;
    rig.spawn("{}").await;
    let tested = rig.orchestrator.test_providers().await;
    assert_eq!(tested, [("fake".to_owned(), true)].into());
    let detail = rig.orchestrator.provider("fake").await.unwrap();
    assert_eq!(detail.sandbox_count, 1);
    let unknown = rig.orchestrator.provider("else").await;
    assert_eq!(code(unknown), ErrorCode::NotFound);
}

#[tokio::test]
async fn figures_add_up() {
    let rig = Rig::new().await;
    let one = rig.spawn("{}").await.id;
    let two = rig.spawn("{}").await.id;
    rig.fake.create_fails.store(true, Ordering::SeqCst);
    rig.try_spawn("{}").await.unwrap_err();
    rig.destroy(&one).await.unwrap();
    let run = rig
        .orchestrator
        .exec_captured(&rig.caller, &two, argv(&["echo", "x"]));
    run.await.unwrap();
    let stats = rig.orchestrator.stats(&rig.caller, &two).await.unwrap();
    assert_eq!((stats.supported, stats.pids), (true, 3));
    let logs = rig.orchestrator.logs(&rig.caller, &two, 2).await;
    assert_eq!(logs.unwrap(), ["line 0", "line 1"]);
    let metrics = rig.orchestrator.metrics();
    assert_eq!(metrics.active_sandboxes, 1);
    assert_eq!(metrics.by_state[&SandboxState::Running], 1);
    assert_eq!(metrics.by_state[&SandboxState::Stopped], 0);
    assert_eq!(metrics.by_provider["fake"], 1);
    assert_eq!(metrics.active_execs, 0);
    let figures = |operation| {
        let found = metrics.operations.iter().find(|m| m.operation == operation);
        found.map(|m| (m.count, m.errors))
    };
    assert_eq!(figures(Operation::Spawn), Some((3, 1)));
    assert_eq!(figures(Operation::Exec), Some((1, 0)));
    assert_eq!(figures(Operation::Stats), Some((1, 0)));
    assert_eq!(figures(Operation::FileRead), None);
    // A restart keeps the total.
    let rig = rig.restart().await;
    assert_eq!(rig.orchestrator.metrics().total_sandboxes, 3);
}

#[tokio::test]
async fn shutting_down_refuses_what_is_new_and_keeps_the_sandboxes() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let events = rig
        .orchestrator
        .exec(&rig.caller, &id, argv(&["sleep"]))
        .await
        .unwrap()
        .events;
    let orchestrator = rig.orchestrator.clone();
    let ending = tokio::spawn(async move { orchestrator.shutdown(Duration::from_secs(20)).await });
    eventually("it refuses", || rig.orchestrator.ready().is_err()).await;
    assert_eq!(code(rig.try_spawn("{}").await), ErrorCode::Unavailable);
    assert_eq!(code(rig.destroy(&id).await), ErrorCode::Unavailable);
    settle(&rig).await;
    assert!(!ending.is_finished(), "it did not wait for the command");
    drop(events);
    ending.await.unwrap();
    assert_eq!(rig.fake.ids(), [id].into());
    assert!(rig.store.list_active().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn shutting_down_cuts_off_at_the_deadline() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let orchestrator = rig.orchestrator.clone();
    let caller = rig.caller.clone();
    let text = id.clone();
    let run = tokio::spawn(async move {
        orchestrator
            .exec_captured(&caller, &text, argv(&["deaf"]))
            .await
    });
    eventually("it runs", || rig.fake.running.load(Ordering::SeqCst) == 1).await;
    let orchestrator = rig.orchestrator.clone();
    let ending = tokio::spawn(async move { orchestrator.shutdown(Duration::from_secs(5)).await });
    for _ in 0..12 {
        crate::tests::support::pass(&rig, Duration::from_secs(1)).await;
        if ending.is_finished() {
            break;
        }
    }
    assert_eq!(code(run.await.unwrap()), ErrorCode::Unavailable);
    ending.await.unwrap();
    assert_eq!(rig.fake.ids(), [id].into());
}

#[tokio::test]
async fn a_start_that_makes_no_sense_is_refused() {
    let start = async |settings, providers: Vec<Arc<dyn Provider>>| {
        let store = stacyvm_store::Store::in_memory().unwrap();
        crate::Orchestrator::start(settings, store, providers)
            .await
            .unwrap_err()
    };
    assert!(matches!(
        start(settings(), Vec::new()).await,
        StartError::NoProvider
    ));
    let twice = vec![Fake::new() as _, Fake::new() as _];
    let error = start(settings(), twice).await;
    assert!(matches!(error, StartError::DuplicateProvider(_)));
    let other = Settings {
        default_provider: "docker".to_owned(),
        ..settings()
    };
    let error = start(other, vec![Fake::new() as _]).await.to_string();
    assert!(
        error.contains("docker") && error.contains("fake"),
        "{error}"
    );
}
