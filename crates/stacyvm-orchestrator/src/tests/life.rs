//! Spawning, showing, destroying; clients that go away; owners.

use std::sync::atomic::Ordering;
use std::time::Duration;

use stacyvm_types::{ErrorCode, Isolation, PreviewAccess, SandboxId, SandboxState, Vcpus};

use crate::tests::support::{Rig, argv, code, drawn, eventually, request, settings, settle};
use crate::{Caller, ListFilter, Settings};

#[tokio::test]
async fn a_spawn_becomes_a_box_with_what_was_asked() {
    let rig = Rig::with(Settings {
        image_aliases: [("py".to_owned(), "python:3.13".to_owned())].into(),
        ..settings()
    })
    .await;
    let sandbox = rig
        .spawn(
            r#"{"image":"py","memory_mb":256,"vcpus":0.5,"disk_mb":64,"ttl":"90s","owner_id":" alice ",
                "metadata":{"team":"blue"},"env":{"TOKEN":"secret"},"workdir":"/srv",
                "user":"root","network":"none","isolation":"process",
                "preview":"private"}"#,
        )
        .await;
    let half = Vcpus::from_cores(0.5).unwrap();
    assert_eq!(sandbox.state, SandboxState::Running);
    assert_eq!(sandbox.image, "py");
    assert_eq!((sandbox.memory_mb, sandbox.vcpus), (256, half));
    assert_eq!(sandbox.owner_id.as_ref().unwrap().as_str(), "alice");
    assert_eq!(sandbox.isolation, Isolation::Container);
    assert_eq!(sandbox.metadata["team"], "blue");
    assert_eq!(sandbox.preview_domain, "localhost:7423");
    assert_eq!(sandbox.preview, Some(PreviewAccess::Private));
    let lives = sandbox.expires_at.saturating_since(sandbox.created_at);
    assert_eq!(lives, Duration::from_secs(90));
    let spec = rig.fake.specs.lock().unwrap()[0].clone();
    assert_eq!(spec.id, sandbox.id);
    assert_eq!(spec.image, "python:3.13");
    assert_eq!(
        (spec.memory_mb, spec.vcpus, spec.pids_limit),
        (256, half, 256)
    );
    assert_eq!((spec.disk_mb, sandbox.disk_mb), (Some(64), Some(64)));
    assert_eq!(spec.open_files, 16_384);
    assert_eq!(spec.env["TOKEN"], "secret");
    assert_eq!(spec.workdir.as_deref(), Some("/srv"));
    assert_eq!(spec.user.as_deref(), Some("root"));
    assert_eq!(rig.get(&sandbox.id).await.unwrap(), sandbox);

    let plain = rig.spawn(r#"{"image":"","ttl":null,"memory_mb":0}"#).await;
    assert_eq!(plain.image, "plain");
    assert_eq!((plain.memory_mb, plain.disk_mb), (1024, None));
    assert_eq!(plain.preview, None);
    let lives = plain.expires_at.saturating_since(plain.created_at);
    assert_eq!(lives, Duration::from_secs(1800));
}

#[tokio::test]
async fn lists_are_newest_first_and_filtered() {
    let rig = Rig::new().await;
    let one = rig
        .spawn(r#"{"owner_id":"alice","metadata":{"a":"1","b":"2"}}"#)
        .await;
    rig.clock.jump(Duration::from_secs(1));
    let two = rig
        .spawn(r#"{"owner_id":"bob","metadata":{"a":"1"}}"#)
        .await;
    rig.clock.jump(Duration::from_secs(1));
    let three = rig.spawn("{}").await;
    rig.fake.kill(&three.id);
    let ids = async |filter| -> Vec<SandboxId> {
        let list = rig.orchestrator.list(&rig.caller, filter).await.unwrap();
        list.into_iter().map(|sandbox| sandbox.id).collect()
    };
    let any = ListFilter::default;
    assert_eq!(
        ids(any()).await,
        [three.id.clone(), two.id.clone(), one.id.clone()]
    );
    let alice = ListFilter {
        owner: Some("alice".to_owned()),
        ..any()
    };
    assert_eq!(ids(alice).await, std::slice::from_ref(&one.id));
    let labelled = |labels: &[(&str, &str)]| ListFilter {
        metadata: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..any()
    };
    assert_eq!(
        ids(labelled(&[("a", "1")])).await,
        [two.id.clone(), one.id.clone()]
    );
    let both = ids(labelled(&[("a", "1"), ("b", "2")])).await;
    assert_eq!(both, std::slice::from_ref(&one.id));
    assert_eq!(ids(labelled(&[("a", "2")])).await, []);
    let stopped = rig.orchestrator.state.registry.get(&three.id).unwrap();
    eventually("the dead one is stopped", || {
        stopped.state() == Some(SandboxState::Stopped)
    })
    .await;
    let in_state = |state| ListFilter {
        state: Some(state),
        ..any()
    };
    assert_eq!(ids(in_state(SandboxState::Stopped)).await, [three.id]);
    assert_eq!(ids(in_state(SandboxState::Running)).await, [two.id, one.id]);
}

#[tokio::test]
async fn destroying_is_idempotent_and_leaves_nothing() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    rig.destroy(&id).await.unwrap();
    assert_eq!(rig.fake.ids().len(), 0);
    assert_eq!(code(rig.get(&id).await), ErrorCode::NotFound);
    assert_eq!(rig.list().await, []);
    assert_eq!(rig.store.list_active().await.unwrap(), []);
    rig.destroy(&id).await.unwrap();
    let unknown = SandboxId::from_u32(0);
    rig.destroy(&unknown).await.unwrap();
    assert_eq!(code(rig.get(&unknown).await), ErrorCode::NotFound);
    let tried = rig.fake.destroys_tried.load(Ordering::SeqCst);
    assert_eq!(tried, 1);
}

#[tokio::test]
async fn many_destroys_at_once_all_succeed_after_one_attempt() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let destroys = (0..50).map(|_| rig.destroy(&id));
    for outcome in futures_util::future::join_all(destroys).await {
        outcome.unwrap();
    }
    assert_eq!(rig.fake.destroys_tried.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn destroying_what_is_being_created_waits_for_it() {
    let rig = Rig::new().await;
    rig.fake.create_gate.shut();
    let orchestrator = rig.orchestrator.clone();
    let spawned = tokio::spawn(async move {
        let caller = Caller::default();
        orchestrator.spawn(&caller, request("{}"), None).await
    });
    eventually("the box is half made", || !rig.fake.ids().is_empty()).await;
    let sandbox = rig.list().await.remove(0);
    assert_eq!(sandbox.state, SandboxState::Creating);
    let id = sandbox.id;
    let run = rig
        .orchestrator
        .exec_captured(&rig.caller, &id, argv(&["echo", "x"]));
    assert_eq!(code(run.await), ErrorCode::Conflict);
    let orchestrator = rig.orchestrator.clone();
    let wanted = id.clone();
    let destroyed =
        tokio::spawn(async move { orchestrator.destroy(&Caller::default(), &wanted).await });
    settle(&rig).await;
    assert!(!destroyed.is_finished());
    rig.fake.create_gate.open();
    destroyed.await.unwrap().unwrap();
    assert_eq!(spawned.await.unwrap().unwrap().id, id);
    assert_eq!(rig.fake.ids().len(), 0);
}

#[tokio::test]
async fn a_failed_creation_says_why_and_leaves_nothing() {
    let rig = Rig::new().await;
    rig.fake.create_fails.store(true, Ordering::SeqCst);
    let error = rig.try_spawn("{}").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ProviderError);
    let text = error.to_string();
    assert_eq!(text, "provider fake: make the box: it is broken");
    assert!(std::error::Error::source(&error).is_some());
    assert_eq!(rig.list().await, []);
    assert_eq!(rig.store.list_active().await.unwrap(), []);
    let absent = rig.try_spawn(r#"{"image":"absent"}"#).await;
    assert_eq!(code(absent), ErrorCode::NotFound);
    assert_eq!(rig.store.total_sandboxes().await.unwrap(), 1);
}

#[tokio::test]
async fn taken_ids_are_drawn_again() {
    let rig = Rig::drawing(settings(), drawn(&[1, 1, 2, 1, 2, 3])).await;
    let one = rig.spawn("{}").await.id;
    let two = rig.spawn("{}").await.id;
    assert_eq!((one.as_str(), two.as_str()), ("sb-00000001", "sb-00000002"));
    rig.destroy(&one).await.unwrap();
    // 1 is destroyed and 2 lives: neither is given out again.
    assert_eq!(rig.spawn("{}").await.id.as_str(), "sb-00000003");
    let exhausted = rig.try_spawn("{}").await;
    assert_eq!(code(exhausted), ErrorCode::InternalError);
    assert_eq!(rig.list().await.len(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_during_creation_leaves_no_sandbox() {
    let rig = Rig::new().await;
    rig.fake.create_gate.shut();
    for key in [None, Some("key")] {
        let orchestrator = rig.orchestrator.clone();
        let spawned = tokio::spawn(async move {
            let caller = Caller::default();
            orchestrator.spawn(&caller, request("{}"), key).await
        });
        eventually("the box is half made", || rig.fake.ids().len() == 1).await;
        spawned.abort();
        assert!(spawned.await.unwrap_err().is_cancelled());
        rig.fake.create_gate.open();
        if key.is_none() {
            eventually("the box is gone", || rig.fake.ids().is_empty()).await;
            rig.fake.create_gate.shut();
        }
    }
    // With a key the client can come back for it.
    let sandbox = rig
        .orchestrator
        .spawn(&rig.caller, request("{}"), Some("key"))
        .await
        .unwrap();
    assert_eq!(rig.fake.ids(), [sandbox.id].into());
}

#[tokio::test]
async fn a_client_that_leaves_during_destruction_changes_nothing() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    {
        let destroy = std::pin::pin!(rig.destroy(&id));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::future::Future::poll(destroy, &mut context).is_pending());
    }
    eventually("the box is gone", || rig.fake.ids().is_empty()).await;
    eventually("it is forgotten", || {
        rig.orchestrator.state.registry.get(&id).is_none()
    })
    .await;
    assert_eq!(rig.store.list_active().await.unwrap(), []);
}

#[tokio::test]
async fn in_pool_mode_another_owners_sandbox_does_not_exist() {
    let rig = Rig::with(Settings {
        pool_mode: true,
        ..settings()
    })
    .await;
    let owner = |name: &str| Caller {
        owner: Some(name.parse().unwrap()),
    };
    let (alice, bob) = (owner("alice"), owner("bob"));
    let orchestrator = &rig.orchestrator;
    let hers = orchestrator
        .spawn(&alice, request("{}"), None)
        .await
        .unwrap();
    let nobodys = rig.spawn("{}").await;
    for id in [&hers.id, &nobodys.id] {
        let codes = [
            code(orchestrator.get(&bob, id).await),
            code(orchestrator.destroy(&bob, id).await),
            code(orchestrator.extend(&bob, id, "1m").await),
            code(orchestrator.stats(&bob, id).await),
            code(orchestrator.logs(&bob, id, 1).await),
            code(orchestrator.exec(&bob, id, argv(&["echo", "x"])).await),
            code(
                orchestrator
                    .exec_captured(&bob, id, argv(&["echo", "x"]))
                    .await,
            ),
            code(orchestrator.sandbox(&bob, id).await),
        ];
        assert_eq!(codes, [ErrorCode::NotFound; 8]);
    }
    let list = async |caller: &Caller| {
        let list = orchestrator.list(caller, ListFilter::default()).await;
        list.unwrap().len()
    };
    assert_eq!(
        (
            list(&alice).await,
            list(&bob).await,
            list(&rig.caller).await
        ),
        (1, 0, 2)
    );
    assert_eq!(orchestrator.get(&alice, &hers.id).await.unwrap(), hers);
    orchestrator.destroy(&alice, &hers.id).await.unwrap();
}

#[tokio::test]
async fn outside_pool_mode_owners_are_a_label() {
    let rig = Rig::new().await;
    let sandbox = rig.spawn(r#"{"owner_id":"alice"}"#).await;
    let bob = Caller {
        owner: Some("bob".parse().unwrap()),
    };
    let found = rig.orchestrator.get(&bob, &sandbox.id).await;
    assert_eq!(found.unwrap(), sandbox);
}
