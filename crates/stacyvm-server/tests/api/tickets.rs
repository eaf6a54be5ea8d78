//! Tickets: what a browser sends instead of the key where it cannot set headers.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::http::{Answer, get, read_head, send};
use crate::support::{Options, Server};

const KEY: &str = "X-API-Key: right-key\r\n";

async fn server(life: Option<std::time::Duration>) -> Server {
    let mut options = Options::default();
    options.server.api_key = Some("right-key".into());
    options.orchestrator.pool_mode = true;
    if let Some(life) = life {
        options.server.ticket_life = life;
    }
    Server::start(options).await
}

async fn issue(at: SocketAddr, headers: &str, body: &str) -> String {
    let headers = format!("{KEY}{headers}");
    let answer = send(at, "POST", "/api/v1/tickets", &headers, body.as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let value = answer.json();
    let keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["expires_at", "ticket"]);
    value["ticket"].as_str().unwrap().to_owned()
}

/// Whether authentication let the request through to its route.
fn passed(answer: &Answer) -> bool {
    assert!(answer.status != 403, "{}", answer.text());
    answer.status != 401
}

#[tokio::test]
async fn a_ticket_opens_one_stream_once_and_nothing_else() {
    let server = server(None).await;
    let at = server.address;
    for path in [
        "/api/v1/events?type=x",
        "/api/v1/sandboxes/sb-00000000/exec/ws?",
        "/api/v1/sandboxes/sb-00000000/execs/1/attach?offset=3",
        "/api/v1/sandboxes/sb-00000000/logs?follow=true",
    ] {
        let ticket = issue(at, "", "").await;
        let url = format!("{path}&ticket={ticket}");
        assert!(passed(&get(at, &url).await), "{path}");
        get(at, &url).await.expect(401, "UNAUTHORIZED");
    }
    let ticket = issue(at, "", "{}").await;
    for path in [
        "/api/v1/sandboxes",
        "/api/v1/health",
        "/api/v1/tickets",
        "/api/v1/sandboxes/sb-00000000/exec",
        "/api/v1/sandboxes/sb-00000000/logs",
    ] {
        for method in ["GET", "POST"] {
            let url = format!("{path}?ticket={ticket}");
            let answer = send(at, method, &url, "", b"").await;
            answer.expect(401, "UNAUTHORIZED");
        }
    }
    let twice = format!("/api/v1/events?ticket={ticket}&ticket={ticket}");
    get(at, &twice).await.expect(401, "UNAUTHORIZED");
    // None of that used it up; with a key it is not looked at.
    let url = format!("/api/v1/events?type=x&ticket={ticket}");
    assert!(passed(&send(at, "GET", &url, KEY, b"").await));
    let wrong = send(at, "GET", &url, "X-API-Key: wrong\r\n", b"").await;
    wrong.expect(401, "UNAUTHORIZED");
    assert!(passed(&get(at, &url).await));
    let answer = send(at, "POST", "/api/v1/tickets", "", b"").await;
    answer.expect(401, "UNAUTHORIZED");
    // As a browser would use it.
    let ticket = issue(at, "", "").await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = format!("GET /api/v1/events?ticket={ticket} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (status, headers, _) = read_head(&mut stream).await;
    assert_eq!(status, 200);
    let kind = ("content-type".to_owned(), "text/event-stream".to_owned());
    assert!(headers.contains(&kind), "{headers:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_ticket_is_for_its_owner_its_path_and_its_time() {
    let server = server(None).await;
    let at = server.address;
    let headers = format!("{KEY}X-User-ID: alice\r\n");
    let made = send(at, "POST", "/api/v1/sandboxes", &headers, b"{}").await;
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let logs = format!("/api/v1/sandboxes/{id}/logs?follow=true&ticket=");
    // In pool mode the owner is an access check, and the ticket's owner is the one that counts.
    let bobs = issue(at, "X-User-ID: bob\r\n", "").await;
    let pretends = send(
        at,
        "GET",
        &format!("{logs}{bobs}"),
        "X-User-ID: alice\r\n",
        b"",
    )
    .await;
    pretends.expect(404, "NOT_FOUND");
    let hers = issue(at, "X-User-ID: alice\r\n", "").await;
    let answer = get(at, &format!("{logs}{hers}")).await;
    assert!(passed(&answer) && answer.status != 404, "{}", answer.text());

    let body = format!(r#"{{"path":"/api/v1/sandboxes/{id}"}}"#);
    let bound = issue(at, "", &body).await;
    let elsewhere = get(at, &format!("/api/v1/events?ticket={bound}")).await;
    elsewhere.expect(401, "UNAUTHORIZED");
    assert!(passed(&get(at, &format!("{logs}{bound}")).await));
    for wrong in [r#"{"path":"/x"}"#, r#"{"path":3}"#, "[]", "{"] {
        let answer = send(at, "POST", "/api/v1/tickets", KEY, wrong.as_bytes()).await;
        answer.expect(400, "BAD_REQUEST");
    }
    server.stop().await;

    let server = self::server(Some(std::time::Duration::ZERO)).await;
    let late = issue(server.address, "", "").await;
    let answer = get(server.address, &format!("/api/v1/events?ticket={late}")).await;
    answer.expect(401, "UNAUTHORIZED");
    server.stop().await;
}

#[tokio::test]
async fn one_key_has_only_so_many_tickets_out_and_used_ones_do_not_count() {
    let server = server(None).await;
    let at = server.address;
    let mut last = String::new();
    for _ in 0..1000 {
        last = issue(at, "", "").await;
    }
    let refused = send(at, "POST", "/api/v1/tickets", KEY, b"").await;
    refused.expect(429, "RESOURCE_LIMIT");
    assert!(refused.header("retry-after").is_some());
    let used = get(
        at,
        &format!("/api/v1/sandboxes/x/logs?follow=true&ticket={last}"),
    )
    .await;
    assert!(passed(&used));
    issue(at, "", "").await;
    server.stop().await;
}

#[tokio::test]
async fn without_a_key_a_foreign_page_opens_no_socket() {
    let server = Server::plain().await;
    let at = server.address;
    let path = "/api/v1/sandboxes/sb-00000000/exec/ws";
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let foreign = format!("{upgrade}Origin: http://evil.example\r\n");
    let answer = send(at, "GET", path, &foreign, b"").await;
    answer.expect(403, "FORBIDDEN");
    let own = format!("{upgrade}Host: localhost:7423\r\nOrigin: http://localhost:7423\r\n");
    assert_ne!(send(at, "GET", path, &own, b"").await.status, 403);
    // An invalid ticket is refused here too, so that no request counts as an owner's by mistake.
    let answer = get(at, "/api/v1/events?ticket=nonsense").await;
    answer.expect(401, "UNAUTHORIZED");
    server.stop().await;
}
