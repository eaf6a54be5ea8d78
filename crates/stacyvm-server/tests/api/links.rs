//! Links to previews: who gets one, and for what.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stacyvm_preview::access::{Access, AccessSettings, LinkKey};

use crate::http::{Answer, get, send};
use crate::support::{Options, Server};

async fn server() -> Server {
    let mut options = Options::default();
    options.orchestrator.pool_mode = true;
    let settings = AccessSettings {
        domain: "box.example.org".to_owned(),
        secure: true,
        lifetime: Duration::from_secs(60),
        max_lifetime: Duration::from_secs(3600),
        ..AccessSettings::default()
    };
    let access = Arc::new(Access::new(LinkKey::fleeting().unwrap(), settings));
    options.server.preview.gate = access.clone();
    options.server.access = Some(access);
    Server::start(options).await
}

async fn ask(server: &Server, owner: &str, path: &str, body: Value) -> Answer {
    let header = format!("X-User-ID: {owner}\r\n");
    let path = format!("/api/v1/sandboxes{path}");
    let body = body.to_string();
    send(server.address, "POST", &path, &header, body.as_bytes()).await
}

#[tokio::test]
async fn a_link_is_for_the_owner_alone_and_says_what_it_does() {
    let server = server().await;
    let made = ask(&server, "alice", "", json!({"preview": "private"})).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.json()["preview"], "private");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/{id}/preview");
    let link = ask(&server, "alice", &path, json!({"port": 3000})).await;
    assert_eq!(link.status, 200, "{}", link.text());
    assert_eq!(link.header("cache-control"), Some("no-store"));
    let link = link.json();
    let keys: Vec<_> = link.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["expires_at", "url"]);
    let begin = format!("https://3000-{id}.box.example.org/?stacyvm_token=v1.");
    assert!(link["url"].as_str().unwrap().starts_with(&begin), "{link}");
    for (owner, path, body, status, code) in [
        ("bob", &path, json!({"port": 3000}), 404, "NOT_FOUND"),
        (
            "alice",
            &"/sb-00000000/preview".to_owned(),
            json!({"port": 1}),
            404,
            "NOT_FOUND",
        ),
        ("alice", &path, json!({"port": 0}), 400, "BAD_REQUEST"),
        ("alice", &path, json!({"port": 65536}), 400, "BAD_REQUEST"),
        (
            "alice",
            &path,
            json!({"port": 1, "expires_in": "0s"}),
            400,
            "BAD_REQUEST",
        ),
        (
            "alice",
            &path,
            json!({"port": 1, "expires_in": "2d"}),
            400,
            "BAD_REQUEST",
        ),
        (
            "alice",
            &path,
            json!({"port": 1, "expires_in": "61m"}),
            429,
            "RESOURCE_LIMIT",
        ),
    ] {
        ask(&server, owner, path, body).await.expect(status, code);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_public_preview_gets_its_bare_address_for_its_life() {
    let server = server().await;
    let made = ask(&server, "alice", "", json!({"preview": "public"}))
        .await
        .json();
    let id = made["id"].as_str().unwrap();
    let link = ask(
        &server,
        "alice",
        &format!("/{id}/preview"),
        json!({"port": 80}),
    )
    .await;
    let url = format!("https://80-{id}.box.example.org/");
    assert_eq!(
        link.json(),
        json!({"url": url, "expires_at": made["expires_at"]})
    );
    server.stop().await;
}

#[tokio::test]
async fn a_server_without_links_says_so() {
    let server = Server::plain().await;
    let made = send(server.address, "POST", "/api/v1/sandboxes", "", b"{}").await;
    let id = made.json()["id"].as_str().unwrap().to_owned();
    assert!(made.json().get("preview").is_none());
    let path = format!("/api/v1/sandboxes/{id}/preview");
    let asked = send(server.address, "POST", &path, "", br#"{"port": 80}"#).await;
    asked.expect(422, "UNSUPPORTED");
    get(server.address, &path)
        .await
        .expect(405, "METHOD_NOT_ALLOWED");
    server.stop().await;
}
