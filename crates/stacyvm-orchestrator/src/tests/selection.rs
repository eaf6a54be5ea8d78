//! Isolation as a floor: who makes a sandbox that asks for one, and at which level.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use stacyvm_types::{ErrorCode, Isolation, SandboxId};

use crate::tests::fake::Fake;
use crate::tests::support::{Rig, request};

use Isolation::{Container, None as Nothing, Process, Remote, UserspaceKernel, Vm};

/// Where a spawn lands, and at which level; or the code and the words of its refusal.
async fn lands(rig: &Rig, body: &str) -> Result<(String, Isolation), String> {
    let spawned = rig.try_spawn(body).await;
    let asked = rig.orchestrator.admission(&rig.caller, request(body)).await;
    match (spawned, asked) {
        (Ok(sandbox), Ok(admission)) => {
            assert!(admission.allowed, "{body}");
            Ok((sandbox.provider, sandbox.isolation))
        }
        (Err(error), Err(same)) => {
            assert_eq!(error.to_string(), same.to_string(), "{body}");
            assert_eq!(error.code(), ErrorCode::Unsupported, "{error}");
            Err(error.to_string())
        }
        (spawned, asked) => panic!("{body}: {spawned:?}, but a dry run says {asked:?}"),
    }
}

#[tokio::test]
async fn a_named_provider_gives_its_weakest_level_that_will_do() {
    let many = Fake::named("many", &[Container, Vm, UserspaceKernel]);
    let rig = Rig::of(vec![many]).await;
    for (floor, level) in [
        ("", Container),
        ("none", Container),
        ("process", Container),
        ("container", Container),
        ("userspace-kernel", UserspaceKernel),
        ("vm", Vm),
    ] {
        let body = format!(r#"{{"provider":"many","isolation":"{floor}"}}"#);
        let got = lands(&rig, &body).await.unwrap();
        assert_eq!(got, ("many".to_owned(), level), "{floor}");
        let asked = rig.fake.specs.lock().unwrap().last().unwrap().isolation;
        assert_eq!(asked, level, "{floor}");
    }
    let refused = lands(&rig, r#"{"provider":"many","isolation":"remote"}"#).await;
    assert_eq!(
        refused.unwrap_err(),
        "provider many gives isolation container or vm or userspace-kernel, less than the remote asked for"
    );
}

#[tokio::test]
async fn without_a_name_the_default_comes_first_and_then_who_gives_the_least_that_will_do() {
    let rig = Rig::of(vec![
        Fake::named("plain", &[Process]),
        Fake::named("far", &[Remote]),
        Fake::named("strong", &[Vm]),
        Fake::named("b-middle", &[Container, UserspaceKernel]),
        Fake::named("a-middle", &[UserspaceKernel]),
        Fake::named("open", &[Nothing]),
    ])
    .await;
    for (floor, provider, level) in [
        ("", "plain", Process),
        ("none", "plain", Process),
        ("process", "plain", Process),
        ("container", "b-middle", Container),
        ("userspace-kernel", "a-middle", UserspaceKernel),
        ("vm", "strong", Vm),
        // What another service says of itself reaches no level but its own.
        ("remote", "far", Remote),
    ] {
        let got = lands(&rig, &format!(r#"{{"isolation":"{floor}"}}"#)).await;
        assert_eq!(got, Ok((provider.to_owned(), level)), "{floor}");
    }
}

#[tokio::test]
async fn who_is_not_healthy_is_passed_over_and_named() {
    let strong = Fake::named("strong", &[Vm]);
    let stronger = Fake::named("very-strong", &[Vm]);
    for fake in [&strong, &stronger] {
        fake.healthy.store(false, Ordering::SeqCst);
    }
    let fakes = vec![Fake::new(), Arc::clone(&strong), Arc::clone(&stronger)];
    let rig = Rig::of(fakes).await;
    let refused = lands(&rig, r#"{"isolation":"vm"}"#).await.unwrap_err();
    assert_eq!(
        refused,
        "no provider gives isolation vm now; there are fake (container), strong (vm, not healthy), very-strong (vm, not healthy)"
    );
    stronger.healthy.store(true, Ordering::SeqCst);
    let rig = rig.restart().await;
    let got = lands(&rig, r#"{"isolation":"vm"}"#).await;
    assert_eq!(got, Ok(("very-strong".to_owned(), Vm)));
}

#[tokio::test]
async fn a_sandbox_keeps_its_level_over_a_restart() {
    let many = Fake::named("many", &[Container, UserspaceKernel]);
    let rig = Rig::of(vec![many]).await;
    let sandbox = rig.spawn(r#"{"isolation":"userspace-kernel"}"#).await;
    let id: SandboxId = sandbox.id;
    let stored = rig.store.get(&id).await.unwrap().unwrap();
    assert_eq!(stored.isolation, UserspaceKernel);
    let rig = rig.restart().await;
    assert_eq!(rig.get(&id).await.unwrap().isolation, UserspaceKernel);
}
