//! Spawns whose image has to come from far away.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stacyvm_types::ErrorCode;

use crate::Settings;
use crate::tests::support::{Rig, code, eventually, request, settings};

fn is(counter: &AtomicUsize, wanted: usize) -> bool {
    counter.load(Ordering::SeqCst) == wanted
}

fn one_seat() -> Settings {
    Settings {
        max_sandboxes: 1,
        concurrent_creates: 1,
        ..settings()
    }
}

#[tokio::test]
async fn a_spawn_that_waits_for_its_image_takes_nobodys_place() {
    let rig = Rig::with(one_seat()).await;
    rig.fake.image_gate.shut();
    let orchestrator = rig.orchestrator.clone();
    let waiting = tokio::spawn(async move {
        let far = request(r#"{"image":"far"}"#);
        orchestrator.spawn(&Default::default(), far, None).await
    });
    eventually("it waits", || is(&rig.fake.fetching, 1)).await;
    assert_eq!(rig.orchestrator.metrics().active_sandboxes, 0);

    let near = rig.spawn("{}").await;
    let shown = rig.orchestrator.list(&rig.caller, Default::default()).await;
    assert_eq!(shown.unwrap().len(), 1);
    rig.orchestrator
        .destroy(&rig.caller, &near.id)
        .await
        .unwrap();

    rig.fake.image_gate.open();
    let far = waiting.await.unwrap().unwrap();
    assert_eq!(far.image, "far");
    assert!(is(&rig.fake.held, 0), "the image is held for ever");
}

#[tokio::test]
async fn a_client_who_goes_away_waits_no_longer() {
    let rig = Rig::with(one_seat()).await;
    rig.fake.image_gate.shut();
    let orchestrator = rig.orchestrator.clone();
    let waiting = tokio::spawn(async move {
        let far = request(r#"{"image":"far"}"#);
        let caller = crate::Caller::default();
        orchestrator.spawn(&caller, far, Some("key")).await
    });
    eventually("it waits", || is(&rig.fake.fetching, 1)).await;
    waiting.abort();
    eventually("nobody waits", || is(&rig.fake.fetching, 0)).await;
    rig.fake.image_gate.open();
    // Neither the seat nor the key is taken.
    let far = request(r#"{"image":"far"}"#);
    let spawned = rig.orchestrator.spawn(&rig.caller, far, Some("key")).await;
    assert_eq!(spawned.unwrap().image, "far");
}

#[tokio::test]
async fn an_image_that_cannot_be_had_is_the_providers_failure() {
    let rig = Rig::with(one_seat()).await;
    let far = request(r#"{"image":"far-and-broken"}"#);
    let error = rig.orchestrator.spawn(&rig.caller, far, None).await;
    assert_eq!(code(error), ErrorCode::ProviderError);
    assert!(rig.fake.ids().is_empty());
    rig.spawn("{}").await;
}

#[tokio::test]
async fn a_server_that_stops_waits_for_no_image() {
    let rig = Rig::new().await;
    rig.fake.image_gate.shut();
    let orchestrator = rig.orchestrator.clone();
    let waiting = tokio::spawn(async move {
        let far = request(r#"{"image":"far"}"#);
        orchestrator.spawn(&Default::default(), far, None).await
    });
    eventually("it waits", || is(&rig.fake.fetching, 1)).await;
    // Time stands still here: waiting for the deadline would never end.
    rig.orchestrator.shutdown(Duration::from_secs(3600)).await;
    assert_eq!(code(waiting.await.unwrap()), ErrorCode::Unavailable);
    assert!(is(&rig.fake.fetching, 0));
}

#[test]
fn aliases_are_followed_to_their_end_and_once_round_a_circle() {
    let aliases = [("a", "b"), ("b", "c"), ("x", "y"), ("y", "x")];
    let settings = Settings {
        image_aliases: aliases.map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
        ..settings()
    };
    assert_eq!(settings.resolve_image("a"), "c");
    assert_eq!(settings.resolve_image("c"), "c");
    assert!(["x", "y"].contains(&settings.resolve_image("x")));
}

#[tokio::test]
async fn a_provider_without_images_is_named() {
    let rig = Rig::new().await;
    let error = rig.orchestrator.images(None).map(drop);
    let text = format!("{}", error.as_ref().unwrap_err());
    assert!(text.contains("capability images"), "{text}");
    assert_eq!(code(error), ErrorCode::Unsupported);
    let error = rig.orchestrator.images(Some("none")).map(drop);
    assert_eq!(code(error), ErrorCode::NotFound);
}
