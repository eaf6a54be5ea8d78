//! The routes about the server itself: contract section 7.

use serde_json::json;

use crate::http::{get, post};
use crate::mock::Mocked;
use crate::support::{Options, Server};

#[tokio::test]
async fn health_and_probes_say_how_the_server_is() {
    let mut options = Options::default();
    options.server.version = "1.2.3-test".to_owned();
    let server = Server::start(options).await;
    let at = server.address;
    let health = get(at, "/api/v1/health").await;
    assert_eq!(health.header("content-type"), Some("application/json"));
    let value = health.json();
    assert_eq!(
        (&value["status"], &value["version"]),
        (&json!("ok"), &json!("1.2.3-test"))
    );
    let uptime = value["uptime"].as_str().unwrap();
    assert!(
        uptime.parse::<stacyvm_types::GoDuration>().is_ok(),
        "{uptime}"
    );
    assert_eq!(value.as_object().unwrap().len(), 3);
    assert!(!health.text().contains(": "), "compact: {}", health.text());
    assert_eq!(get(at, "/api/v1/live").await.json()["status"], "alive");
    let ready = get(at, "/api/v1/ready").await;
    assert_eq!(
        (ready.status, &ready.json()["status"]),
        (200, &json!("ready"))
    );
    let told = server.client.health().await.unwrap();
    assert_eq!(told.version, "1.2.3-test");
    assert!(server.client.ready().await.unwrap());
    server.stop().await;
}

#[tokio::test]
async fn what_clients_splat_has_exactly_its_keys() {
    let server = Server::plain().await;
    let at = server.address;
    for (path, text) in [
        (
            "/api/v1/quotas/summary",
            "{\"total\":0,\"with_max_sandboxes\":0,\"with_max_ttl\":0,\"with_max_exec_timeout\":0}",
        ),
        ("/api/v1/pool/status", "{\"enabled\":false}"),
        ("/api/v1/snapshots", "[]"),
        ("/api/v1/snapshots/", "[]"),
        ("/api/v1/templates/", "[]"),
    ] {
        let answer = get(at, path).await;
        assert_eq!((answer.status, answer.text()), (200, text), "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn providers_are_listed_described_and_tested() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    for path in ["/api/v1/providers", "/api/v1/providers/"] {
        let list = get(at, path).await.json();
        let list = list.as_array().unwrap();
        assert_eq!(list.len(), 1);
        let mock = &list[0];
        assert_eq!(
            (&mock["name"], &mock["healthy"]),
            (&json!("mock"), &json!(true))
        );
        assert_eq!(
            (&mock["default"], &mock["isolation"]),
            (&json!(true), &json!("none"))
        );
        assert!(
            mock["latency_ms"].is_number() && mock["runtime_count"].is_u64(),
            "{mock}"
        );
        assert!(mock["last_checked"].as_str().unwrap().ends_with('Z'));
        assert!(
            mock["capabilities"]
                .as_array()
                .unwrap()
                .contains(&json!("exec"))
        );
        assert!(mock.get("error").is_none());
    }
    let detail = get(at, "/api/v1/providers/mock").await.json();
    assert_eq!(
        (&detail["name"], &detail["sandbox_count"]),
        (&json!("mock"), &json!(1))
    );
    assert!(
        detail["config"].is_object() && detail["degradations"].is_array(),
        "{detail}"
    );
    get(at, "/api/v1/providers/nowhere")
        .await
        .expect(404, "NOT_FOUND");
    let tested = post(at, "/api/v1/providers/test", "").await;
    assert_eq!((tested.status, tested.text()), (200, "{\"mock\":true}"));
    assert_eq!(server.client.providers().await.unwrap()[0].name, "mock");
    assert!(server.client.test_providers().await.unwrap()["mock"]);
    assert_eq!(
        server.client.provider("mock").await.unwrap()["name"],
        "mock"
    );
    server.client.destroy(&id).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn metrics_count_what_was_done() {
    let server = Mocked::start().await;
    let at = server.address;
    let (one, two) = (server.spawn().await, server.spawn().await);
    for _ in 0..3 {
        server.shell(&one, "true").await;
    }
    server.client.read_file(&one, "/no/such").await.unwrap_err();
    server.client.destroy(&two).await.unwrap();
    let metrics = server.client.metrics().await.unwrap();
    assert!(metrics["uptime"].is_string() && metrics["memory_alloc"].as_u64().unwrap() > 0);
    assert_eq!(
        (&metrics["active_sandboxes"], &metrics["total_sandboxes"]),
        (&json!(1), &json!(2))
    );
    let sandboxes = &metrics["sandboxes"];
    assert_eq!(
        (&sandboxes["total"], &sandboxes["active"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(sandboxes["by_state"]["running"], 1);
    assert_eq!(sandboxes["by_provider"]["mock"], 1);
    let count = |name: &str, field: &str| {
        let all = metrics["operations"].as_array().unwrap().iter();
        let found = all
            .clone()
            .find(|operation| operation["operation"] == name)
            .unwrap();
        assert_eq!(found["provider"], "mock");
        found[field].as_u64().unwrap()
    };
    assert_eq!((count("spawn", "count"), count("exec", "count")), (2, 3));
    assert_eq!(count("file_read", "count"), 1);
    let answer = get(at, "/api/v1/metrics/prometheus").await;
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let text = answer.text();
    let value = |name: &str| -> f64 {
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found
            .unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    };
    assert!(value("stacyvm_uptime_seconds") > 0.0);
    assert_eq!(value("stacyvm_sandboxes_active"), 1.0);
    assert_eq!(value("stacyvm_sandboxes{state=\"running\"}"), 1.0);
    let exec = "operation=\"exec\",provider=\"mock\"";
    assert_eq!(value(&format!("stacyvm_operations_total{{{exec}}}")), 3.0);
    let name = "stacyvm_operation_duration_seconds";
    assert_eq!(value(&format!("{name}_count{{{exec}}}")), 3.0);
    assert_eq!(value(&format!("{name}_bucket{{{exec},le=\"+Inf\"}}")), 3.0);
    assert!(value(&format!("{name}_sum{{{exec}}}")) > 0.0);
    exposition_is_well_formed(text);
    server.stop().await;
}

/// Every sample belongs to the family announced last, and no family is announced twice.
fn exposition_is_well_formed(text: &str) {
    let mut families = std::collections::BTreeSet::new();
    let mut family = "";
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} twice");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(family), "{line} under {family}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
