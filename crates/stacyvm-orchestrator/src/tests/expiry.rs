//! Expiry and destruction on paused time: nothing here waits for a real second.

use std::sync::atomic::Ordering;
use std::time::Duration;

use stacyvm_types::{ErrorCode, SandboxState};

use crate::Settings;
use crate::sandbox::command::{Command, DestroyReason};
use crate::tests::support::{Rig, code, eventually, pass, settings, settle};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_sandbox_is_gone_within_a_second_of_its_expiry() {
    let rig = Rig::new().await;
    let brief = rig.spawn(r#"{"ttl":"10s"}"#).await.id;
    let long = rig.spawn(r#"{"ttl":"1h"}"#).await.id;
    let instant = rig.spawn(r#"{"ttl":"1ns"}"#).await.id;
    pass(&rig, SECOND).await;
    eventually("the shortest is gone", || {
        !rig.fake.ids().contains(&instant)
    })
    .await;
    pass(&rig, SECOND * 8).await;
    assert!(rig.fake.ids().contains(&brief), "it went too early");
    pass(&rig, SECOND * 2).await;
    // Time stands still from here on: what was not started by now never is.
    eventually("it is gone", || rig.fake.ids() == [long.clone()].into()).await;
    assert_eq!(code(rig.get(&brief).await), ErrorCode::NotFound);
    assert_eq!(rig.orchestrator.metrics().expired, 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_is_noticed() {
    let rig = Rig::new().await;
    rig.spawn(r#"{"ttl":"24h"}"#).await;
    pass(&rig, SECOND).await;
    rig.clock.jump(Duration::from_secs(25 * 60 * 60));
    pass(&rig, Duration::from_millis(500)).await;
    eventually("it is gone", || rig.fake.ids().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn extending_sets_the_end_to_now_plus_ttl_either_way() {
    let rig = Rig::with(Settings {
        max_ttl: Some(Duration::from_secs(3600)),
        ..settings()
    })
    .await;
    let sandbox = rig.spawn(r#"{"ttl":"10s"}"#).await;
    let id = sandbox.id.clone();
    let extend = async |ttl: &str| {
        let extended = rig.orchestrator.extend(&rig.caller, &id, ttl);
        extended.await
    };
    pass(&rig, SECOND * 9).await;
    let extended = extend("1m").await.unwrap();
    let lives = extended.expires_at.saturating_since(sandbox.created_at);
    assert_eq!(lives, SECOND * 69);
    assert_eq!(rig.get(&id).await.unwrap(), extended);
    let stored = rig.store.get(&id).await.unwrap().unwrap();
    assert_eq!(stored.expires_at, extended.expires_at);
    pass(&rig, SECOND * 30).await;
    assert!(rig.fake.ids().contains(&id), "the old expiry was enforced");
    for (ttl, expected) in [
        ("0s", ErrorCode::BadRequest),
        ("-1s", ErrorCode::BadRequest),
        ("soon", ErrorCode::BadRequest),
        ("2h", ErrorCode::ResourceLimit),
    ] {
        assert_eq!(code(extend(ttl).await), expected, "{ttl}");
    }
    extend("2s").await.unwrap();
    pass(&rig, SECOND * 3).await;
    eventually("it is gone", || rig.fake.ids().is_empty()).await;
    assert_eq!(code(extend("1m").await), ErrorCode::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_fired_just_before_an_extension_is_too_late() {
    let rig = Rig::new().await;
    let id = rig.spawn(r#"{"ttl":"10s"}"#).await.id;
    let (reply, answer) = tokio::sync::oneshot::channel();
    let command = Command::Destroy {
        reason: DestroyReason::Expired,
        reply: Some(reply),
        span: tracing::Span::none(),
    };
    let entry = rig.orchestrator.state.registry.get(&id).unwrap();
    entry.commands.send(command).await.unwrap();
    assert!(!answer.await.unwrap().unwrap());
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Running);
    // It is on the timer as before.
    pass(&rig, SECOND * 11).await;
    eventually("it is gone", || rig.fake.ids().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn what_ran_out_while_the_server_was_down_goes_at_the_start() {
    let rig = Rig::new().await;
    rig.spawn(r#"{"ttl":"10s"}"#).await;
    let long = rig.spawn(r#"{"ttl":"1h"}"#).await;
    rig.clock.jump(SECOND * 60);
    let rig = rig.restart().await;
    pass(&rig, Duration::from_millis(1)).await;
    eventually("it is gone", || rig.fake.ids().len() == 1).await;
    assert_eq!(rig.list().await, [long]);
}

#[tokio::test(start_paused = true)]
async fn one_stuck_destroy_delays_no_other() {
    let rig = Rig::new().await;
    let mut stuck = Vec::new();
    for number in 0..20 {
        let id = rig.spawn(r#"{"ttl":"5s"}"#).await.id;
        if number % 2 == 0 {
            rig.fake.stuck.lock().unwrap().insert(id.clone());
            stuck.push(id);
        }
    }
    pass(&rig, SECOND * 6).await;
    eventually("the others are gone", || rig.fake.ids().len() == 10).await;
    // A stuck attempt is given up, shown, and made again.
    pass(&rig, SECOND * 31).await;
    let shown = rig.list().await;
    assert_eq!(shown.len(), 10);
    assert!(shown.iter().all(|s| s.state == SandboxState::Error));
    rig.fake.stuck.lock().unwrap().clear();
    pass(&rig, SECOND * 31).await;
    eventually("all are gone", || rig.fake.ids().is_empty()).await;
    assert_eq!(rig.list().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_failed_destroy_is_told_and_tried_again_until_it_succeeds() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    rig.fake.destroys_fail.store(3, Ordering::SeqCst);
    let error = rig.destroy(&id).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ProviderError);
    assert_eq!(rig.get(&id).await.unwrap().state, SandboxState::Error);
    let stats = rig.orchestrator.stats(&rig.caller, &id).await;
    assert_eq!(code(stats), ErrorCode::Conflict);
    // Asking again tries again at once.
    rig.destroy(&id).await.unwrap_err();
    assert_eq!(rig.fake.destroys_tried.load(Ordering::SeqCst), 2);
    // Two more attempts come by themselves: 0.4 s and 0.8 s after the last at most.
    for _ in 0..4 {
        pass(&rig, SECOND).await;
    }
    eventually("it is gone", || rig.fake.ids().is_empty()).await;
    assert_eq!(rig.fake.destroys_tried.load(Ordering::SeqCst), 4);
    settle(&rig).await;
    assert_eq!(rig.store.list_active().await.unwrap(), []);
    rig.destroy(&id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pruning_destroys_the_expired_and_counts_them() {
    let rig = Rig::new().await;
    for _ in 0..3 {
        rig.spawn(r#"{"ttl":"10s"}"#).await;
    }
    let long = rig.spawn(r#"{"ttl":"1h"}"#).await;
    assert_eq!(rig.orchestrator.prune(&rig.caller).await.unwrap(), 0);
    // The clock jumps and the timer has had no chance to look yet.
    settle(&rig).await;
    rig.clock.jump(SECOND * 11);
    assert_eq!(rig.orchestrator.prune(&rig.caller).await.unwrap(), 3);
    assert_eq!(rig.list().await, [long]);
    assert_eq!(rig.orchestrator.prune(&rig.caller).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_box_that_is_never_ready_is_given_up() {
    let rig = Rig::new().await;
    rig.fake.create_gate.shut();
    let orchestrator = rig.orchestrator.clone();
    let spawned = tokio::spawn(async move {
        let caller = crate::Caller::default();
        let request = crate::tests::support::request("{}");
        orchestrator.spawn(&caller, request, None).await
    });
    eventually("it is half made", || rig.fake.ids().len() == 1).await;
    pass(&rig, SECOND * 121).await;
    assert_eq!(code(spawned.await.unwrap()), ErrorCode::ProviderError);
    assert_eq!(rig.fake.ids().len(), 0);
    assert_eq!(rig.list().await, []);
}
