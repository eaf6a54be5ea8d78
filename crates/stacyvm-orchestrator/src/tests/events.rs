//! What a watcher hears of the life of sandboxes, and who hears it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use stacyvm_provider::BoxState;
use stacyvm_types::{EventId, EventType, EventValue, FileMode, SandboxId};

use crate::tests::support::{Rig, argv, code, eventually, pass, settings};
use crate::{Caller, EventFilter, Settings, Subscription, WriteOptions, upload};

fn watch(rig: &Rig, caller: &Caller) -> Subscription {
    let filter = EventFilter::default();
    rig.orchestrator
        .events(caller, filter, Some(EventId(0)))
        .unwrap()
}

/// Waits until `last` came and returns everything up to it, as `type` or `type name=value`.
async fn until(events: &mut Subscription, last: &str, name: &str) -> Vec<String> {
    let mut heard: Vec<String> = Vec::new();
    eventually(last, || {
        let batch = events.take();
        heard.extend(batch.iter().map(|event| match event.data.get(name) {
            None => event.kind.to_string(),
            Some(EventValue::Text(text)) => format!("{} {text}", event.kind),
            Some(value) => format!("{} {value:?}", event.kind),
        }));
        heard.iter().any(|word| word == last)
    })
    .await;
    heard
}

#[tokio::test(start_paused = true)]
async fn a_life_is_told_in_order() {
    let rig = Rig::new().await;
    let mut events = watch(&rig, &rig.caller);
    let id = rig.spawn("{}").await.id;
    for words in [["echo", "hi"], ["false", ""], ["bomb", ""]] {
        let run = rig
            .orchestrator
            .exec_captured(&rig.caller, &id, argv(&words));
        run.await.unwrap();
    }
    let mut slow = argv(&["sleep"]);
    slow.timeout = Some("1s".to_owned());
    let (orchestrator, target) = (rig.orchestrator.clone(), id.clone());
    let timed_out = tokio::spawn(async move {
        let caller = Caller::default();
        orchestrator.exec_captured(&caller, &target, slow).await
    });
    pass(&rig, Duration::from_secs(2)).await;
    timed_out.await.unwrap().unwrap_err();
    rig.destroy(&id).await.unwrap();
    let heard = until(&mut events, "sandbox.destroyed", "reason").await;
    assert_eq!(
        heard,
        [
            "sandbox.created",
            "sandbox.running",
            "exec.started",
            "exec.completed",
            "exec.started",
            "exec.completed",
            "exec.started",
            "resource.limit",
            "exec.failed oom",
            "exec.started",
            "exec.timeout",
            "sandbox.destroyed",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_is_told_too() {
    let rig = Rig::new().await;
    let mut events = watch(&rig, &rig.caller);
    rig.spawn(r#"{"ttl":"5s"}"#).await;
    pass(&rig, Duration::from_secs(6)).await;
    let heard = until(&mut events, "sandbox.destroyed", "").await;
    assert_eq!(heard[2..], ["sandbox.expired", "sandbox.destroyed"]);

    let lost = rig.spawn("{}").await.id;
    rig.fake.kill(&lost);
    let heard = until(&mut events, "sandbox.error stopped", "state").await;
    assert_eq!(heard.len(), 3, "{heard:?}");

    rig.fake.create_fails.store(true, Ordering::SeqCst);
    rig.try_spawn("{}").await.unwrap_err();
    let heard = until(&mut events, "sandbox.destroyed", "").await;
    let expected = ["sandbox.created", "sandbox.error", "sandbox.destroyed"];
    assert_eq!(heard, expected);

    rig.fake.create_fails.store(false, Ordering::SeqCst);
    let id = rig.spawn("{}").await.id;
    let mut request = argv(&["echo"]);
    request.workdir = Some("/missing".to_owned());
    let run = rig.orchestrator.exec_captured(&rig.caller, &id, request);
    run.await.unwrap_err();
    until(&mut events, "exec.failed not_started", "reason").await;
}

#[tokio::test(start_paused = true)]
async fn providers_and_the_reconciler_are_heard() {
    let rig = Rig::new().await;
    let mut events = watch(&rig, &rig.caller);
    rig.fake.healthy.store(false, Ordering::SeqCst);
    pass(&rig, Duration::from_secs(31)).await;
    until(&mut events, "provider.failed it is down", "error").await;
    rig.fake.healthy.store(true, Ordering::SeqCst);
    pass(&rig, Duration::from_secs(31)).await;
    let heard = until(&mut events, "provider.recovered", "error").await;
    assert_eq!(heard, ["provider.recovered"]);
    rig.fake.plant(&SandboxId::from_u32(7), BoxState::Running);
    pass(&rig, Duration::from_secs(61)).await;
    let word = "reconcile.action orphan_destroyed";
    until(&mut events, word, "action").await;
}

#[tokio::test]
async fn refusals_of_limits_are_told_without_what_was_sent() {
    let rig = Rig::with(Settings {
        max_sandboxes: 1,
        max_exec_timeout: Some(Duration::from_secs(5)),
        ..settings()
    })
    .await;
    let mut events = watch(&rig, &rig.caller);
    let id = rig.spawn(r#"{"env":{"KEY":"s3cret"}}"#).await.id;
    code(rig.try_spawn("{}").await);
    let mut request = argv(&["echo", "s3cret"]);
    request.timeout = Some("1h".to_owned());
    let run = rig.orchestrator.exec_captured(&rig.caller, &id, request);
    code(run.await);
    let run = argv(&["echo", "s3cret"]);
    let run = rig.orchestrator.exec_captured(&rig.caller, &id, run);
    run.await.unwrap();
    let mut all = Vec::new();
    eventually("the end of the command", || {
        all.extend(events.take());
        all.iter()
            .any(|event| event.kind == EventType::ExecCompleted)
    })
    .await;
    let refused = all
        .iter()
        .filter(|event| event.kind == EventType::ResourceLimit);
    assert_eq!(refused.count(), 2);
    assert!(!format!("{all:?}").contains("s3cret"), "{all:?}");
}

#[tokio::test]
async fn files_are_told_by_name_and_owners_hear_their_own_in_pool_mode() {
    let rig = Rig::with(Settings {
        pool_mode: true,
        ..settings()
    })
    .await;
    let ann = Caller {
        owner: Some("ann".parse().unwrap()),
    };
    let mut everything = watch(&rig, &rig.caller);
    let mut hers = watch(&rig, &ann);
    let id = rig.spawn(r#"{"owner_id":"ann"}"#).await.id;
    rig.spawn(r#"{"owner_id":"bob"}"#).await;
    let ops = rig.orchestrator.sandbox(&ann, &id).await.unwrap();
    let options = WriteOptions {
        mode: FileMode::FILE,
        parents: true,
    };
    let (_sender, data) = upload(2);
    ops.write("/a", options, data).await.unwrap();
    ops.rename("/a", "/b").await.unwrap();
    ops.remove("/b", false).await.unwrap();
    ops.read("/b", Default::default()).await.unwrap_err();
    let expected = [
        "sandbox.created",
        "sandbox.running",
        "file.written /a",
        "file.deleted /a",
        "file.written /b",
        "file.deleted /b",
    ];
    let heard = until(&mut hers, "file.deleted /b", "path").await;
    assert_eq!(heard, expected);
    let heard = until(&mut everything, "file.deleted /b", "path").await;
    assert_eq!(heard.len(), expected.len() + 2);
}

#[tokio::test]
async fn ids_go_on_rising_after_a_restart() {
    let rig = Rig::new().await;
    let mut events = watch(&rig, &rig.caller);
    rig.spawn("{}").await;
    let before = events.take().last().unwrap().id;
    rig.clock.jump(Duration::from_millis(5));
    let rig = rig.restart().await;
    let filter = EventFilter::default();
    let mut events = rig
        .orchestrator
        .events(&rig.caller, filter, Some(before))
        .unwrap();
    rig.spawn("{}").await;
    let heard = events.take();
    assert_eq!(heard[0].kind, EventType::EventsLost);
    assert_eq!(heard[0].data.get("reason"), Some(&"restart".into()));
    assert!(heard.iter().all(|event| event.id > before), "{heard:?}");
}
