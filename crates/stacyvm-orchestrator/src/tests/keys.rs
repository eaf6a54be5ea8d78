//! Idempotency keys.

use std::sync::atomic::Ordering;
use std::time::Duration;

use stacyvm_types::ErrorCode;

use crate::Caller;
use crate::tests::support::{Rig, code, request};

#[tokio::test]
async fn a_key_makes_one_sandbox_however_often_it_is_sent() {
    let rig = Rig::new().await;
    let body = r#"{"ttl":"10m","metadata":{"a":"1"}}"#;
    let spawn = async |rig: &Rig, body: &str, key: &str| {
        let spawned = rig
            .orchestrator
            .spawn(&rig.caller, request(body), Some(key));
        spawned.await
    };
    let at_once = (0..20).map(|_| spawn(&rig, body, "k"));
    let answers = futures_util::future::join_all(at_once).await;
    let first = answers[0].as_ref().unwrap().clone();
    for answer in &answers {
        assert_eq!(answer.as_ref().unwrap(), &first);
    }
    assert_eq!(rig.fake.ids().len(), 1);
    assert_eq!(
        code(spawn(&rig, r#"{"ttl":"11m"}"#, "k").await),
        ErrorCode::Conflict
    );
    let alice = Caller {
        owner: Some("alice".parse().unwrap()),
    };
    let hers = rig.orchestrator.spawn(&alice, request(body), Some("k"));
    assert_ne!(hers.await.unwrap().id, first.id);

    let rig = rig.restart().await;
    assert_eq!(spawn(&rig, body, "k").await.unwrap(), first);
    rig.destroy(&first.id).await.unwrap();
    assert_eq!(code(spawn(&rig, body, "k").await), ErrorCode::Conflict);
    rig.clock.jump(Duration::from_secs(24 * 60 * 60));
    let next_day = spawn(&rig, body, "k").await.unwrap();
    assert_ne!(next_day.id, first.id);
    assert_eq!(code(spawn(&rig, body, "").await), ErrorCode::BadRequest);
}

#[tokio::test]
async fn a_key_whose_creation_failed_can_be_used_again() {
    let rig = Rig::new().await;
    rig.fake.create_fails.store(true, Ordering::SeqCst);
    let spawn = async || {
        let spawned = rig
            .orchestrator
            .spawn(&rig.caller, request("{}"), Some("k"));
        spawned.await
    };
    assert_eq!(code(spawn().await), ErrorCode::ProviderError);
    rig.fake.create_fails.store(false, Ordering::SeqCst);
    let sandbox = spawn().await.unwrap();
    assert_eq!(spawn().await.unwrap(), sandbox);
}
