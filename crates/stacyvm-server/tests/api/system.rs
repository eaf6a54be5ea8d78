//! The routes about the server itself: contract section 7.

use serde_json::json;

use crate::http::get;
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
