//! What is refused before anything is made, with which code; and how many there may be.

use std::time::Duration;

use stacyvm_types::{ErrorCode, ExecRequest, SandboxId, Vcpus};

use crate::tests::support::{Rig, code, request, settings};
use crate::{Caller, Settings};

#[tokio::test]
async fn bad_requests_get_their_documented_code() {
    let rig = Rig::with(Settings {
        max_ttl: Some(Duration::from_secs(3600)),
        max_memory_mb: Some(2048),
        max_vcpus: Some(Vcpus::whole(4)),
        max_disk_mb: Some(100),
        ..settings()
    })
    .await;
    use ErrorCode::{BadRequest, NotFound, ResourceLimit, Unsupported};
    let cases = [
        (r#"{"provider":"docker"}"#, NotFound, "docker"),
        (r#"{"template":"python"}"#, NotFound, "template"),
        (r#"{"image":"absent"}"#, NotFound, "absent"),
        (r#"{"image":"a\u0000b"}"#, BadRequest, "image"),
        (r#"{"ttl":"0s"}"#, BadRequest, "ttl"),
        (r#"{"ttl":"-5m"}"#, BadRequest, "ttl"),
        (r#"{"ttl":""}"#, BadRequest, "ttl"),
        (r#"{"ttl":"1d"}"#, BadRequest, "ttl"),
        (r#"{"ttl":"10"}"#, BadRequest, "ttl"),
        (r#"{"ttl":"61m"}"#, ResourceLimit, "1h0m0s"),
        (r#"{"memory_mb":-1}"#, BadRequest, "memory_mb"),
        (r#"{"vcpus":-1}"#, BadRequest, "vcpus"),
        (
            r#"{"memory_mb":9223372036854775807}"#,
            BadRequest,
            "memory_mb",
        ),
        (r#"{"memory_mb":2049}"#, ResourceLimit, "memory_mb"),
        (r#"{"vcpus":0.01}"#, BadRequest, "vcpus"),
        (r#"{"vcpus":5000}"#, BadRequest, "vcpus"),
        (r#"{"disk_mb":-1}"#, BadRequest, "disk_mb"),
        (r#"{"disk_mb":15}"#, BadRequest, "disk_mb"),
        (r#"{"vcpus":5}"#, ResourceLimit, "vcpus"),
        (r#"{"vcpus":4.01}"#, ResourceLimit, "vcpus"),
        (r#"{"disk_mb":101}"#, ResourceLimit, "disk_mb"),
        (r#"{"owner_id":"a b"}"#, BadRequest, "owner"),
        (r#"{"isolation":"strong"}"#, BadRequest, "isolation"),
        (r#"{"isolation":"vm"}"#, Unsupported, "isolation"),
        (r#"{"isolation":"remote"}"#, Unsupported, "isolation"),
        (r#"{"volumes":["data"]}"#, Unsupported, "volumes"),
        (r#"{"network":"bridge"}"#, Unsupported, "network-bridge"),
        (r#"{"network":"host"}"#, BadRequest, "network"),
        (
            r#"{"read_only_rootfs":true}"#,
            Unsupported,
            "read-only-rootfs",
        ),
        (r#"{"preview":"open"}"#, BadRequest, "preview"),
        (r#"{"user":"a b"}"#, BadRequest, "user"),
        (r#"{"workdir":"/a\u0000"}"#, BadRequest, "workdir"),
        (r#"{"env":{"A=B":"c"}}"#, BadRequest, "env"),
        (r#"{"metadata":{"":"c"}}"#, BadRequest, "metadata"),
    ];
    for (body, expected, names) in cases {
        let error = rig.try_spawn(body).await.unwrap_err();
        assert_eq!(error.code(), expected, "{body}: {error}");
        assert!(error.to_string().contains(names), "{body}: {error}");
    }
    assert_eq!(rig.store.total_sandboxes().await.unwrap(), 0);
    rig.spawn(r#"{"ttl":"1h","memory_mb":2048,"vcpus":4,"volumes":[],"network":"","isolation":"","template":""}"#)
        .await;
}

#[tokio::test]
async fn who_asks_for_no_disk_gets_what_may_be_asked_for() {
    for (default, most, gets) in [
        (None, None, None),
        (Some(64), None, Some(64)),
        (None, Some(32), Some(32)),
        (Some(64), Some(32), Some(32)),
        (Some(16), Some(32), Some(16)),
    ] {
        let rig = Rig::with(Settings {
            disk_mb: default,
            max_disk_mb: most,
            ..settings()
        })
        .await;
        assert_eq!(rig.spawn("{}").await.disk_mb, gets, "{default:?} {most:?}");
    }
}

#[tokio::test]
async fn the_default_ttl_yields_to_the_longest_allowed() {
    let rig = Rig::with(Settings {
        max_ttl: Some(Duration::from_secs(60)),
        ..settings()
    })
    .await;
    let sandbox = rig.spawn("{}").await;
    let lives = sandbox.expires_at.saturating_since(sandbox.created_at);
    assert_eq!(lives, Duration::from_secs(60));
}

#[tokio::test]
async fn limits_hold_however_many_ask_at_once() {
    let rig = Rig::with(Settings {
        max_sandboxes: 7,
        max_owner_sandboxes: 3,
        ..settings()
    })
    .await;
    let spawn = async |owner: &str| {
        let body = format!(r#"{{"owner_id":"{owner}"}}"#);
        rig.try_spawn(&body).await
    };
    let outcomes = futures_util::future::join_all((0..20).map(|_| spawn("alice"))).await;
    let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (3, 17));
    for outcome in refused {
        assert_eq!(code(outcome), ErrorCode::ResourceLimit);
    }
    let bodies = (0..20).map(|_| rig.try_spawn("{}"));
    let outcomes = futures_util::future::join_all(bodies).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 4);

    // Room is there again when one has gone, and a failure takes none.
    let id = made.into_iter().next().unwrap().unwrap().id;
    rig.destroy(&id).await.unwrap();
    let absent = rig.try_spawn(r#"{"image":"absent"}"#).await;
    assert_eq!(code(absent), ErrorCode::NotFound);
    rig.fake
        .create_fails
        .store(true, std::sync::atomic::Ordering::SeqCst);
    spawn("alice").await.unwrap_err();
    rig.fake
        .create_fails
        .store(false, std::sync::atomic::Ordering::SeqCst);
    spawn("alice").await.unwrap();
}

#[tokio::test]
async fn a_dry_run_tells_what_a_spawn_would_hear() {
    let rig = Rig::with(Settings {
        max_sandboxes: 3,
        max_owner_sandboxes: 1,
        max_ttl: Some(Duration::from_secs(5400)),
        ..settings()
    })
    .await;
    let ask = async |owner: Option<&str>, body: &str| {
        let caller = Caller {
            owner: owner.map(|owner| owner.parse().unwrap()),
        };
        rig.orchestrator.admission(&caller, request(body)).await
    };
    let free = ask(Some("alice"), "{}").await.unwrap();
    assert!(free.allowed && !free.queueable && free.reason.is_empty());
    assert_eq!(free.max_ttl, "1h30m0s");
    assert_eq!((free.max_sandboxes, free.max_owner_sandboxes), (3, 1));
    rig.spawn(r#"{"owner_id":"alice"}"#).await;
    let hers = ask(Some("alice"), "{}").await.unwrap();
    assert!(!hers.allowed && hers.reason.contains("owner"), "{hers:?}");
    assert_eq!((hers.active_sandboxes, hers.active_owner_sandboxes), (1, 1));
    // The body names the owner when the header does not.
    let same = ask(None, r#"{"owner_id":"alice"}"#).await.unwrap();
    assert_eq!(same, hers);
    assert!(ask(None, "{}").await.unwrap().allowed);
    let long = ask(None, r#"{"ttl":"2h"}"#).await.unwrap();
    assert!(!long.allowed && long.reason.contains("1h30m0s"), "{long:?}");
    rig.spawn("{}").await;
    rig.spawn("{}").await;
    let full = ask(None, "{}").await.unwrap();
    assert!(!full.allowed && full.reason.contains('3'), "{full:?}");
    assert_eq!(
        code(ask(None, r#"{"ttl":"x"}"#).await),
        ErrorCode::BadRequest
    );
    assert_eq!(rig.list().await.len(), 3);
}

#[tokio::test]
async fn execs_are_refused_with_their_documented_code() {
    let rig = Rig::with(Settings {
        max_exec_timeout: Some(Duration::from_secs(60)),
        ..settings()
    })
    .await;
    let id = rig.spawn("{}").await.id;
    let unknown = SandboxId::from_u32(0);
    use ErrorCode::{BadRequest, NotFound, ResourceLimit};
    for (id, body, expected) in [
        (&unknown, r#"{"command":"x"}"#, NotFound),
        (&id, "{}", BadRequest),
        (&id, r#"{"command":"x","mode":"bash"}"#, BadRequest),
        (&id, r#"{"command":"x","timeout":"-1s"}"#, BadRequest),
        (&id, r#"{"command":"x","timeout":"2m"}"#, ResourceLimit),
        (
            &id,
            r#"{"command":"echo","mode":"argv","workdir":"/missing"}"#,
            BadRequest,
        ),
    ] {
        let request: ExecRequest = serde_json::from_str(body).unwrap();
        let streamed = rig
            .orchestrator
            .exec(&rig.caller, id, request.clone())
            .await;
        assert_eq!(code(streamed), expected, "{body}");
        let captured = rig
            .orchestrator
            .exec_captured(&rig.caller, id, request)
            .await;
        assert_eq!(code(captured), expected, "{body}");
    }
}
