//! Quotas: who may change them, what they do, and that they are kept.

use std::time::Duration;

use stacyvm_types::{ErrorCode, Quota, QuotaRequest, QuotaSummary};

use crate::tests::support::{Rig, argv, code, request, settings};
use crate::{Caller, Error, Settings};

fn caller(owner: &str) -> Caller {
    Caller {
        owner: Some(owner.parse().unwrap()),
    }
}

fn ask(json: &str) -> QuotaRequest {
    serde_json::from_str(json).unwrap()
}

impl Rig {
    async fn quota(&self, owner: &str, json: &str) -> Result<Quota, Error> {
        self.orchestrator
            .set_quota(&self.caller, owner, ask(json))
            .await
    }
}

#[tokio::test]
async fn a_quota_counts_for_its_owner_alone_and_at_once() {
    let rig = Rig::new().await;
    rig.quota(
        "alice",
        r#"{"max_sandboxes":1,"max_ttl":"1m","max_memory_mb":256}"#,
    )
    .await
    .unwrap();
    let spawn = async |owner: &str, body: &str| {
        let owner = caller(owner);
        let spawned = rig.orchestrator.spawn(&owner, request(body), None);
        spawned.await
    };
    assert_eq!(
        code(spawn("alice", r#"{"ttl":"61s"}"#).await),
        ErrorCode::ResourceLimit
    );
    assert_eq!(
        code(spawn("alice", r#"{"memory_mb":257}"#).await),
        ErrorCode::ResourceLimit
    );
    let hers = spawn("alice", "{}").await.unwrap();
    assert_eq!(hers.memory_mb, 256);
    let lives = hers.expires_at.saturating_since(hers.created_at);
    assert_eq!(lives, Duration::from_secs(60));
    assert_eq!(code(spawn("alice", "{}").await), ErrorCode::ResourceLimit);
    // The owner in the body is the same owner.
    let body = rig.try_spawn(r#"{"owner_id":"alice"}"#).await;
    assert_eq!(code(body), ErrorCode::ResourceLimit);
    let alice = caller("alice");
    let admission = rig.orchestrator.admission(&alice, request("{}"));
    let admission = admission.await.unwrap();
    assert!(!admission.allowed && !admission.queueable);
    assert_eq!(
        (admission.max_owner_sandboxes, admission.max_ttl.as_str()),
        (1, "1m0s")
    );
    spawn("bob", r#"{"ttl":"2h","memory_mb":4096}"#)
        .await
        .unwrap();

    // The sandbox's owner counts, whoever asks.
    let extend = async |ttl: &str| {
        let extended = rig.orchestrator.extend(&rig.caller, &hers.id, ttl).await;
        extended.map(|sandbox| sandbox.id)
    };
    assert_eq!(code(extend("61s").await), ErrorCode::ResourceLimit);
    extend("60s").await.unwrap();

    rig.orchestrator
        .delete_quota(&rig.caller, "alice")
        .await
        .unwrap();
    spawn("alice", r#"{"ttl":"2h"}"#).await.unwrap();
    extend("2h").await.unwrap();
}

#[tokio::test]
async fn commands_are_limited_by_the_smaller_of_both() {
    let rig = Rig::with(Settings {
        max_exec_timeout: Some(Duration::from_secs(60)),
        ..settings()
    })
    .await;
    let id = rig.spawn(r#"{"owner_id":"alice"}"#).await.id;
    let run = async |timeout: &str| {
        let mut request = argv(&["echo", "x"]);
        request.timeout = Some(timeout.to_owned());
        let ran = rig.orchestrator.exec(&rig.caller, &id, request);
        ran.await.map(|running| running.timeout)
    };
    let allowed = run("60s").await.unwrap();
    assert_eq!(allowed, Some(Duration::from_secs(60)));
    rig.quota("alice", r#"{"max_exec_timeout":"5s"}"#)
        .await
        .unwrap();
    assert_eq!(code(run("6s").await), ErrorCode::ResourceLimit);
    assert_eq!(run("0s").await.unwrap(), Some(Duration::from_secs(5)));
    rig.quota("alice", r#"{"max_exec_timeout":"2m"}"#)
        .await
        .unwrap();
    assert_eq!(code(run("61s").await), ErrorCode::ResourceLimit);
}

#[tokio::test]
async fn quotas_are_data_that_a_restart_keeps() {
    let rig = Rig::new().await;
    let created = rig
        .orchestrator
        .create_quota(
            &rig.caller,
            ask(r#"{"owner_id":" bob ","max_sandboxes":1}"#),
        )
        .await
        .unwrap();
    assert_eq!(created.owner_id.as_str(), "bob");
    let again = rig
        .orchestrator
        .create_quota(&rig.caller, ask(r#"{"owner_id":"bob"}"#))
        .await
        .unwrap_err();
    assert_eq!(again.code(), ErrorCode::Conflict);
    assert!(again.to_string().contains("already exists"));
    rig.quota(
        "alice",
        r#"{"owner_id":"alice","max_ttl":"1m","max_exec_timeout":"1s"}"#,
    )
    .await
    .unwrap();
    rig.quota("carol", "{}").await.unwrap();
    for (wrong, owner) in [
        ("{}", "a/b"),
        ("{}", "summary"),
        (r#"{"owner_id":"x"}"#, "y"),
    ] {
        assert_eq!(code(rig.quota(owner, wrong).await), ErrorCode::BadRequest);
    }
    let before = rig.orchestrator.quotas(&rig.caller);
    let rig = rig.restart().await;
    let after = rig.orchestrator.quotas(&rig.caller);
    assert_eq!(before, after);
    let owners: Vec<_> = after.iter().map(|quota| quota.owner_id.as_str()).collect();
    assert_eq!(owners, ["alice", "bob", "carol"]);
    assert_eq!(
        rig.orchestrator.quota_summary(),
        QuotaSummary {
            total: 3,
            with_max_sandboxes: 1,
            with_max_ttl: 1,
            with_max_exec_timeout: 1,
        }
    );
    let missing = rig.orchestrator.delete_quota(&rig.caller, "nobody").await;
    assert_eq!(code(missing), ErrorCode::NotFound);
}

#[tokio::test]
async fn in_pool_mode_owners_see_their_own_and_change_none() {
    let rig = Rig::with(Settings {
        pool_mode: true,
        ..settings()
    })
    .await;
    for owner in ["alice", "bob"] {
        rig.quota(owner, r#"{"max_sandboxes":2}"#).await.unwrap();
    }
    let alice = caller("alice");
    let seen = rig.orchestrator.quotas(&alice);
    assert_eq!(seen.len(), 1);
    assert!(rig.orchestrator.quota(&alice, "alice").is_ok());
    assert_eq!(
        code(rig.orchestrator.quota(&alice, "bob")),
        ErrorCode::NotFound
    );
    let raised = rig.orchestrator.set_quota(&alice, "alice", ask("{}")).await;
    assert_eq!(code(raised), ErrorCode::Forbidden);
    let deleted = rig.orchestrator.delete_quota(&alice, "alice").await;
    assert_eq!(code(deleted), ErrorCode::Forbidden);
}

#[tokio::test]
async fn a_change_that_nobody_waits_for_is_made_whole() {
    let rig = Rig::new().await;
    {
        // Polled once, so that it is begun, and dropped.
        let change = std::pin::pin!(rig.quota("alice", r#"{"max_sandboxes":7}"#));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(std::future::Future::poll(change, &mut context).is_pending());
    }
    let caller = Caller::default();
    crate::tests::support::eventually("the quota is set", || {
        rig.orchestrator.quota(&caller, "alice").is_ok()
    })
    .await;
    assert_eq!(rig.store.list_quotas().await.unwrap().len(), 1);
}
