//! Exact keys of what is said about the server, and what it is like when a provider is down:
//! contract section 7.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use stacyvm_types::EventsQuery;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::fake::Fake;
use crate::http::{TEST_TIMEOUT, get, post, read_head, send};
use crate::mock::Mocked;
use crate::support::{Options, Server};

/// Sorted.
fn keys(value: &Value) -> Vec<&str> {
    let keys = value.as_object().unwrap().keys();
    let mut keys: Vec<_> = keys.map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

const PROVIDER: [&str; 8] = [
    "capabilities",
    "default",
    "healthy",
    "isolation",
    "last_checked",
    "latency_ms",
    "name",
    "runtime_count",
];

fn named(name: &'static str) -> Arc<Fake> {
    let mut fake = Fake::default();
    fake.name = Some(name);
    Arc::new(fake)
}

#[tokio::test]
async fn providers_are_sorted_and_exactly_one_is_the_default() {
    let providers = ["zeta", "alpha", "middle"].map(named);
    let mut options = Options::default();
    options.orchestrator.default_provider = "middle".to_owned();
    options.providers = providers.map(|fake| fake as _).to_vec();
    let server = Server::start(options).await;
    let at = server.address;
    let list = get(at, "/api/v1/providers").await.json();
    let said: Vec<_> = list.as_array().unwrap().iter().collect();
    let names: Vec<_> = said
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["alpha", "middle", "zeta"]);
    let defaults: Vec<_> = said
        .iter()
        .map(|one| one["default"].as_bool().unwrap())
        .collect();
    assert_eq!(defaults, [false, true, false]);
    for one in &said {
        assert_eq!(keys(one), PROVIDER);
        assert!(one["last_checked"].as_str().unwrap().ends_with('Z'));
        assert_eq!(one["capabilities"], json!(["exec", "files"]));
    }
    let tested = post(at, "/api/v1/providers/test", "").await;
    assert_eq!(tested.text(), r#"{"alpha":true,"middle":true,"zeta":true}"#);
    let made = post(at, "/api/v1/sandboxes", "{}").await.json();
    assert_eq!(made["provider"], "middle");
    let there = post(at, "/api/v1/sandboxes", r#"{"provider":"zeta"}"#).await;
    assert_eq!(there.json()["provider"], "zeta");
    let detail = get(at, "/api/v1/providers/zeta").await.json();
    for key in PROVIDER.into_iter().chain(["sandbox_count", "config"]) {
        assert!(detail.get(key).is_some(), "{key}: {detail}");
    }
    assert_eq!(
        (&detail["sandbox_count"], &detail["default"]),
        (&json!(1), &json!(false))
    );
    server.stop().await;
}

#[tokio::test]
async fn a_provider_that_is_down_is_told_and_the_server_is_not_ready() {
    let fake = Arc::new(Fake::default());
    fake.down.store(true, Ordering::Relaxed);
    let options = Options {
        providers: vec![fake.clone()],
        ..Options::default()
    };
    let server = Server::start(options).await;
    let at = server.address;
    let ready = get(at, "/api/v1/ready").await;
    assert_eq!(
        (ready.status, &ready.json()["status"]),
        (503, &json!("not_ready"))
    );
    assert_eq!(ready.header("content-type"), Some("application/json"));
    assert_eq!(get(at, "/api/v1/live").await.status, 200);
    assert_eq!(get(at, "/api/v1/health").await.json()["status"], "ok");
    let one = get(at, "/api/v1/providers").await.json()[0].clone();
    assert_eq!(one["healthy"], false);
    assert_eq!(one["error"], "it does not answer");
    let tested = post(at, "/api/v1/providers/test", "").await;
    assert_eq!(tested.text(), r#"{"fake":false}"#);
    let refused = post(at, "/api/v1/sandboxes", "{}").await;
    refused.expect(503, "UNAVAILABLE");
    // Questions do not probe the provider.
    let before = fake.probes.load(Ordering::Relaxed);
    for _ in 0..20 {
        for path in [
            "ready",
            "live",
            "health",
            "providers",
            "providers/fake",
            "metrics",
        ] {
            get(at, &format!("/api/v1/{path}")).await;
        }
    }
    assert_eq!(fake.probes.load(Ordering::Relaxed), before);
    server.stop().await;
}

#[tokio::test]
async fn probes_and_metrics_have_their_keys() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    server.shell(&id, "true").await;
    for (path, expected) in [
        ("health", vec!["status", "uptime", "version"]),
        ("live", vec!["status", "uptime"]),
        ("ready", vec!["status", "uptime"]),
    ] {
        let said = get(at, &format!("/api/v1/{path}")).await.json();
        assert_eq!(keys(&said), expected, "{path}");
    }
    let metrics = get(at, "/api/v1/metrics").await.json();
    for key in [
        "uptime",
        "active_sandboxes",
        "total_sandboxes",
        "memory_alloc",
        "sandboxes",
        "operations",
    ] {
        assert!(metrics.get(key).is_some(), "{key}: {metrics}");
    }
    let sandboxes = &metrics["sandboxes"];
    assert_eq!(
        keys(sandboxes),
        ["active", "by_provider", "by_state", "total"]
    );
    let operations = metrics["operations"].as_array().unwrap();
    assert!(operations.len() >= 2, "{metrics}");
    for operation in operations {
        let expected = ["avg_ms", "count", "errors", "operation", "provider"];
        assert_eq!(keys(operation), expected);
    }
    let stats = get(at, &format!("/api/v1/sandboxes/{id}/stats"))
        .await
        .json();
    for (key, value) in stats.as_object().unwrap() {
        assert_eq!(value.is_number(), key != "supported", "{key}: {value}");
        assert_eq!(value.is_boolean(), key == "supported", "{key}: {value}");
    }
    server.stop().await;
}

#[tokio::test]
async fn nothing_but_what_is_listed_here_changes_anything() {
    let server = Server::plain().await;
    let at = server.address;
    let document = get(at, "/api/v1/openapi.json").await.json();
    let mut changing = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let path = path.strip_prefix("/api/v1").unwrap();
            let inside = path.starts_with("/sandboxes/{id}/");
            if method != "get" && !inside {
                changing.push(format!("{method} {path}"));
            }
        }
    }
    changing.sort();
    // A route that changes the server's configuration has no place in this list.
    assert_eq!(
        changing,
        [
            "delete /images/{name}",
            "delete /quotas/{owner}",
            "delete /sandboxes",
            "delete /sandboxes/{id}",
            "post /images/load",
            "post /images/prune",
            "post /images/pull",
            "post /images/tag",
            "post /providers/test",
            "post /quotas",
            "post /sandboxes",
            "post /sandboxes/admission",
            "post /tickets",
            "put /quotas/{owner}",
        ]
    );
    for path in ["config", "settings", "providers/fake", "pool/status"] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let answer = send(at, method, &format!("/api/v1/{path}"), "", b"{}").await;
            assert!(matches!(answer.status, 404 | 405), "{method} {path}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn every_type_of_event_can_be_asked_for() {
    assert_eq!(
        stacyvm_server::ServerSettings::default()
            .event_heartbeat
            .as_secs(),
        15
    );
    let server = Server::plain().await;
    for kind in [
        "sandbox.created",
        "sandbox.running",
        "sandbox.paused",
        "sandbox.resumed",
        "sandbox.destroyed",
        "sandbox.error",
        "sandbox.expired",
        "exec.started",
        "exec.completed",
        "exec.failed",
        "exec.timeout",
        "file.written",
        "file.read",
        "file.deleted",
        "template.*",
        "pool.*",
        "provider.failed",
        "provider.recovered",
        "spawn.queued",
        "spawn.dequeued",
        "spawn.queue_timeout",
        "quota.*",
        "reconcile.action",
        "resource.limit",
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET /api/v1/events?type={kind} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(read_head(&mut stream).await.0, 200, "{kind}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_done_over_http_is_told_in_events() {
    let mut options = Mocked::options();
    options.orchestrator.max_sandboxes = 1;
    let server = Mocked::with(options).await;
    let at = server.address;
    let id = server.spawn().await;
    let one = format!("/api/v1/sandboxes/{id}");
    let file = r#"{"path":"/workspace/x","content":"secret-words"}"#;
    let slow = r#"{"command":"sleep 1000","timeout":"100ms"}"#;
    let quota = "/api/v1/quotas/bob";
    for (method, path, body, status) in [
        ("POST", format!("{one}/files"), file, 200),
        ("GET", format!("{one}/files?path=x"), "", 200),
        ("DELETE", format!("{one}/files?path=x"), "", 200),
        (
            "POST",
            format!("{one}/exec"),
            r#"{"command":"exit 3"}"#,
            200,
        ),
        ("POST", format!("{one}/exec"), slow, 408),
        (
            "POST",
            format!("{one}/exec"),
            r#"{"command":"kill -9 $$"}"#,
            200,
        ),
        ("POST", "/api/v1/sandboxes".to_owned(), "{}", 429),
        ("PUT", quota.to_owned(), "{}", 200),
        ("PUT", quota.to_owned(), r#"{"max_ttl":"1h"}"#, 200),
        ("DELETE", quota.to_owned(), "", 200),
        ("DELETE", one.clone(), "", 200),
    ] {
        let answer = send(at, method, &path, "", body.as_bytes()).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
    let query = EventsQuery {
        last_event_id: Some("evt-0".to_owned()),
        ..EventsQuery::default()
    };
    let mut events = server.client.events(&query).await.unwrap();
    let mut heard = Vec::new();
    while heard.last().is_none_or(|kind| kind != "sandbox.destroyed") {
        let event = tokio::time::timeout(TEST_TIMEOUT, events.next())
            .await
            .unwrap();
        let event = event.unwrap().unwrap();
        assert!(!format!("{event:?}").contains("secret-words"), "{event:?}");
        let about = event.kind.starts_with("quota.") || event.kind == "resource.limit";
        assert_eq!(event.sandbox_id.as_deref(), (!about).then_some(id.as_str()));
        heard.push(event.kind);
    }
    assert_eq!(
        heard,
        [
            "sandbox.created",
            "sandbox.running",
            "file.written",
            "file.read",
            "file.deleted",
            "exec.started",
            "exec.completed",
            "exec.started",
            "exec.timeout",
            "exec.started",
            "exec.failed",
            "resource.limit",
            "quota.created",
            "quota.updated",
            "quota.deleted",
            "sandbox.destroyed",
        ]
    );
    server.stop().await;
}
