//! Keys, owners and open routes, on every route there is: contract section 2.

use std::sync::Arc;

use stacyvm_server::ServerSettings;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::fake::Fake;
use crate::http::{Answer, get, send};
use crate::logging::Log;
use crate::support::{Options, Server};

/// What asks for a WebSocket.
pub(crate) const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Every method and path of the description.
async fn operations(server: &Server, headers: &str) -> Vec<(String, String)> {
    let path = "/api/v1/openapi.json";
    let document = send(server.address, "GET", path, headers, b"").await.json();
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, operations)| {
        let methods = operations.as_object().unwrap().keys();
        methods.map(|method| (method.to_uppercase(), path.clone()))
    });
    let all: Vec<_> = all.collect();
    assert!(all.len() > 45, "{all:?}");
    all
}

#[tokio::test]
async fn no_operation_is_open_without_the_key_but_the_probes() {
    let mut options = Options::default();
    options.server.api_key = Some("right-key".into());
    let server = Server::start(options).await;
    let at = server.address;
    for (method, path) in operations(&server, "X-API-Key: right-key\r\n").await {
        let real = path
            .replace("{id}", "sb-00000000")
            .replace("{exec_id}", "ex-1")
            .replace("{name}", "fake")
            .replace("{owner}", "bob");
        for path in [real.clone(), format!("{real}/"), format!("{real}?x=1")] {
            let answer = send(at, &method, &path, "", b"").await;
            if path.contains("/live") || path.contains("/ready") {
                assert_ne!(answer.status, 401, "{path}");
            } else {
                assert_eq!(answer.status, 401, "{method} {path}");
                answer.expect(401, "UNAUTHORIZED");
            }
        }
        let upgraded = send(at, &method, &real, UPGRADE, b"").await;
        let open = real.ends_with("/live") || real.ends_with("/ready");
        assert_eq!(upgraded.status == 401, !open, "{method} {real}");
    }
    // Other spellings of a path lead nowhere.
    for path in [
        "/%61pi/v1/sandboxes",
        "//api/v1/sandboxes",
        "/x/../api/v1/sandboxes",
        "/api/v1/live/../sandboxes",
        "/API/v1/sandboxes",
    ] {
        let answer = get(at, path).await;
        assert!(
            matches!(answer.status, 401 | 404),
            "{path}: {}",
            answer.text()
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn an_open_door_is_warned_about_and_a_locked_one_is_not() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_max_level(tracing::Level::WARN)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let fake = Server::plain().await;
    let heard = async |address: &str, settings: ServerSettings| {
        let before = log.text().len();
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let stopped = CancellationToken::new();
        // It warns, and accepts no connection.
        stopped.cancel();
        let orchestrator = fake.orchestrator.clone();
        stacyvm_server::serve(listener, orchestrator, settings, stopped)
            .await
            .unwrap();
        log.text()[before..].to_owned()
    };
    let key = ServerSettings {
        api_key: Some("right-key".into()),
        ..ServerSettings::default()
    };
    let any = ServerSettings {
        cors_allowed_origins: vec!["*".to_owned()],
        ..ServerSettings::default()
    };
    assert_eq!(heard("127.0.0.1", ServerSettings::default()).await, "");
    assert_eq!(heard("0.0.0.0", key).await, "");
    let open = heard("0.0.0.0", ServerSettings::default()).await;
    assert_eq!(open.matches("WARN").count(), 1, "{open}");
    assert!(
        open.contains("auth.api_key") && open.contains("server.host"),
        "{open}"
    );
    let any = heard("127.0.0.1", any).await;
    assert_eq!(any.matches("WARN").count(), 1, "{any}");
    assert!(any.contains("server.cors_allowed_origins"), "{any}");
    fake.stop().await;
}

#[tokio::test]
async fn the_owner_is_trimmed_and_has_a_form_and_a_length() {
    let (server, _) = Server::with_fake().await;
    let at = server.address;
    let longest = "x".repeat(128);
    let spawn = async |owner: &str| {
        let header = format!("X-User-ID: {owner}\r\n");
        send(at, "POST", "/api/v1/sandboxes", &header, b"{}").await
    };
    for (sent, kept) in [
        (longest.as_str(), longest.as_str()),
        (" \t alice \t", "alice"),
        ("é@example.org", "é@example.org"),
    ] {
        let made = spawn(sent).await;
        assert_eq!(made.status, 201, "{sent}: {}", made.text());
        assert_eq!(made.json()["owner_id"], kept);
    }
    let long = "é".repeat(65);
    for wrong in ["a\tb", "a\u{a0}b", "a\u{85}b", "a/b", "a\\b", &long] {
        let answer = spawn(wrong).await;
        assert_eq!(answer.status, 400, "{wrong:?}: {}", answer.text());
        answer.expect(400, "BAD_REQUEST");
    }
    let blank = spawn("  ").await;
    assert!(blank.json().get("owner_id").is_none(), "{}", blank.text());
    let twice = "X-User-ID: alice\r\nX-User-ID: bob\r\n";
    let answer = send(at, "GET", "/api/v1/sandboxes", twice, b"").await;
    answer.expect(400, "BAD_REQUEST");
    server.stop().await;
}

/// Asks every operation below one sandbox, with requests that are good but for whom they are
/// about, and gives what they say.
pub(crate) async fn everything_of(
    server: &Server,
    id: &str,
    headers: &str,
) -> Vec<(String, Answer)> {
    // One body that every route understands.
    let body = serde_json::json!({
        "ttl": "1m", "command": "x", "path": "/x", "content": "", "mode": "644",
        "old_path": "/x", "new_path": "/y", "signal": "TERM", "cols": 1, "rows": 1, "data": "",
        "port": 80,
    });
    let body = body.to_string();
    let mut told = Vec::new();
    for (method, path) in operations(server, "").await {
        let Some(rest) = path.strip_prefix("/api/v1/sandboxes/{id}") else {
            continue;
        };
        let rest = rest.replace("{exec_id}", "ex-99");
        let path = format!("/api/v1/sandboxes/{id}{rest}?path=/x&pattern=/x");
        let upgrade = if rest.ends_with("/ws") { UPGRADE } else { "" };
        let body = if method == "GET" { "" } else { &body };
        let headers = format!("{headers}{upgrade}");
        let answer = send(server.address, &method, &path, &headers, body.as_bytes()).await;
        told.push((format!("{method} {rest}"), answer));
    }
    assert!(told.len() >= 25, "{told:?}");
    told
}

#[tokio::test]
async fn in_pool_mode_no_operation_shows_another_owners_sandbox() {
    let mut options = Options {
        providers: vec![Arc::new(Fake::default())],
        ..Options::default()
    };
    options.orchestrator.pool_mode = true;
    let server = Server::start(options).await;
    let at = server.address;
    let alice = "X-User-ID: alice\r\n";
    let made = send(at, "POST", "/api/v1/sandboxes", alice, b"{}").await;
    let id = made.json()["id"].as_str().unwrap().to_owned();
    for (what, answer) in everything_of(&server, &id, "X-User-ID: bob\r\n").await {
        assert_eq!(answer.status, 404, "{what}: {}", answer.text());
        answer.expect(404, "NOT_FOUND");
    }
    let hers = send(at, "GET", &format!("/api/v1/sandboxes/{id}"), alice, b"").await;
    assert_eq!(hers.json()["state"], "running");
    server.stop().await;
}
