//! How often and how much: rates, quotas and the line of waiting spawns, contract sections 1 and 7.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::fake::Fake;
use crate::http::{Answer, get, post, read_answer, send};
use crate::mock::eventually;
use crate::support::{Options, Server};

const SANDBOXES: &str = "/api/v1/sandboxes";

/// The seconds of `Retry-After`, after checking that it is there and says at least one.
#[track_caller]
fn limited(answer: &Answer) -> u64 {
    answer.expect(429, "RESOURCE_LIMIT");
    let seconds = answer.header("retry-after").expect("Retry-After");
    let seconds = seconds.parse().unwrap();
    assert!(seconds >= 1);
    seconds
}

async fn as_owner(at: SocketAddr, method: &str, path: &str, owner: &str, body: &str) -> Answer {
    let header = format!("X-User-ID: {owner}\r\n");
    send(at, method, path, &header, body.as_bytes()).await
}

#[tokio::test]
async fn requests_over_the_rate_are_told_when_to_come_back_and_probes_never() {
    let mut options = Options::default();
    // So slow that hardly a token comes back while the test runs.
    options.server.rates.requests_per_second = 1;
    options.server.rates.burst = 60;
    options.server.rates.owner_requests_per_second = 1;
    options.server.rates.owner_burst = 10;
    let server = Server::start(options).await;
    let at = server.address;
    let mut alice = 0;
    while as_owner(at, "GET", SANDBOXES, "alice", "").await.status == 200 {
        alice += 1;
        assert!(alice < 40, "no limit for one owner");
    }
    assert!(alice >= 10, "{alice}");
    // Routes that are not there count as well. A token may have come back since.
    let mut answer = as_owner(at, "GET", "/api/v1/nothing", "alice", "").await;
    for _ in 0..20 {
        if answer.status == 429 {
            break;
        }
        answer = as_owner(at, "GET", "/api/v1/nothing", "alice", "").await;
    }
    limited(&answer);
    assert_eq!(as_owner(at, "GET", SANDBOXES, "bob", "").await.status, 200);
    let mut all = 0;
    let refused = loop {
        let answer = get(at, SANDBOXES).await;
        if answer.status != 200 {
            break answer;
        }
        all += 1;
        assert!(all < 90, "no limit for one address");
    };
    limited(&refused);
    for probe in ["/api/v1/live", "/api/v1/ready", "/api/v1/health"] {
        for _ in 0..70 {
            assert_eq!(get(at, probe).await.status, 200, "{probe}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn spawns_have_a_rate_of_their_own_whoever_names_the_owner() {
    let mut options = Options::default();
    options.server.rates.spawns_per_minute = 4;
    options.server.rates.owner_spawns_per_minute = 2;
    let server = Server::start(options).await;
    let at = server.address;
    let first = as_owner(at, "POST", SANDBOXES, "alice", "{}").await;
    assert_eq!(first.status, 201);
    let named = r#"{"owner_id":"alice"}"#;
    assert_eq!(post(at, SANDBOXES, named).await.status, 201);
    let wait = limited(&post(at, "/api/v1/sandboxes/", named).await);
    // Half a minute, less what has passed since.
    assert!(wait <= 30, "{wait}");
    assert_eq!(post(at, SANDBOXES, "{}").await.status, 201);
    limited(&post(at, SANDBOXES, "{}").await);
    assert_eq!(get(at, SANDBOXES).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn keys_cannot_be_guessed_at_full_speed() {
    let mut options = Options::default();
    options.server.api_key = Some("right-key".into());
    options.server.rates.auth_failures_per_minute = 5;
    let server = Server::start(options).await;
    let at = server.address;
    let with = async |key: &str| {
        let header = format!("X-API-Key: {key}\r\n");
        send(at, "GET", SANDBOXES, &header, b"").await
    };
    // What brings no key is no guess.
    for _ in 0..20 {
        get(at, SANDBOXES).await.expect(401, "UNAUTHORIZED");
    }
    assert_eq!(with("right-key").await.status, 200);
    // A web page can send tickets, and must lock nobody out with them.
    for _ in 0..20 {
        let ticket = get(at, "/api/v1/events?ticket=wrong").await;
        ticket.expect(401, "UNAUTHORIZED");
    }
    for _ in 0..5 {
        with("wrong").await.expect(401, "UNAUTHORIZED");
    }
    limited(&with("wrong").await);
    // Others behind the same address have the right one.
    assert_eq!(with("right-key").await.status, 200);
    limited(&with("wrong").await);
    assert_eq!(get(at, "/api/v1/live").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn quotas_are_made_read_changed_and_deleted() {
    let server = Server::plain().await;
    let at = server.address;
    let quotas = "/api/v1/quotas";
    assert_eq!(get(at, quotas).await.text(), "[]");
    let body = r#"{"owner_id":"alice@example.org","max_sandboxes":1,"max_ttl":"90m","more":1}"#;
    let made = post(at, quotas, body).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    assert_eq!(
        (&made["owner_id"], &made["max_sandboxes"], &made["max_ttl"]),
        (&json!("alice@example.org"), &json!(1), &json!("1h30m0s"))
    );
    assert!(made["created_at"].as_str().unwrap().ends_with('Z'));
    assert!(made.get("max_exec_timeout").is_none());
    let again = post(at, quotas, body).await;
    again.expect(409, "CONFLICT");
    assert!(again.text().contains("already exists"));

    let one = "/api/v1/quotas/alice%40example.org";
    assert_eq!(get(at, one).await.json(), made);
    let changed = send(at, "PUT", one, "", br#"{"max_exec_timeout":"10s"}"#).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    let changed = changed.json();
    assert_eq!(changed["max_ttl"], "1h30m0s");
    assert_eq!(changed["max_exec_timeout"], "10s");
    assert_eq!(changed["created_at"], made["created_at"]);
    let bob = send(at, "PUT", "/api/v1/quotas/bob", "", b"{}").await;
    assert_eq!(bob.status, 200, "{}", bob.text());
    let list = get(at, "/api/v1/quotas/").await.json();
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(list[0], changed);
    assert_eq!(
        get(at, "/api/v1/quotas/summary").await.text(),
        r#"{"total":2,"with_max_sandboxes":1,"with_max_ttl":1,"with_max_exec_timeout":1}"#
    );

    let deleted = send(at, "DELETE", one, "", b"").await;
    assert_eq!(
        (deleted.status, deleted.text()),
        (200, r#"{"status":"deleted"}"#)
    );
    for method in ["GET", "DELETE"] {
        send(at, method, one, "", b"")
            .await
            .expect(404, "NOT_FOUND");
    }
    for (method, path, body) in [
        ("POST", quotas, ""),
        ("POST", quotas, "{}"),
        ("POST", quotas, r#"{"owner_id":"a b"}"#),
        ("POST", quotas, r#"{"owner_id":"summary"}"#),
        ("POST", quotas, r#"{"owner_id":"x","max_sandboxes":-1}"#),
        ("POST", quotas, r#"{"owner_id":"x","max_sandboxes":"1"}"#),
        ("PUT", "/api/v1/quotas/x", r#"{"max_ttl":"1d"}"#),
        ("PUT", "/api/v1/quotas/x", r#"{"owner_id":"y"}"#),
        ("PUT", "/api/v1/quotas/a%2Fb", "{}"),
        ("GET", "/api/v1/quotas/a%20b", ""),
    ] {
        let answer = send(at, method, path, "", body.as_bytes()).await;
        answer.expect(400, "BAD_REQUEST");
    }
    let wrong = send(at, "PUT", "/api/v1/quotas/summary", "", b"{}").await;
    wrong.expect(405, "METHOD_NOT_ALLOWED");
    server.stop().await;
}

#[tokio::test]
async fn a_quota_holds_for_spawns_extensions_and_commands_of_its_owner() {
    let server = Server::plain().await;
    let at = server.address;
    let quota =
        r#"{"owner_id":"alice","max_sandboxes":1,"max_ttl":"10m","max_exec_timeout":"10s"}"#;
    assert_eq!(post(at, "/api/v1/quotas", quota).await.status, 201);
    let spawn = async |owner, body| as_owner(at, "POST", SANDBOXES, owner, body).await;
    spawn("alice", r#"{"ttl":"11m"}"#)
        .await
        .expect(429, "RESOURCE_LIMIT");
    assert_eq!(spawn("bob", r#"{"ttl":"11m"}"#).await.status, 201);
    let made = spawn("alice", "{}").await;
    assert_eq!(made.status, 201, "{}", made.text());
    limited(&spawn("alice", "{}").await);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let ask = async |what: &str, body: &str| {
        let path = format!("/api/v1/sandboxes/{id}/{what}");
        as_owner(at, "POST", &path, "alice", body).await
    };
    let long = ask("extend", r#"{"ttl":"11m"}"#).await;
    long.expect(429, "RESOURCE_LIMIT");
    assert_eq!(ask("extend", r#"{"ttl":"9m"}"#).await.status, 200);
    let long = ask("exec", r#"{"command":"x","timeout":"11s"}"#).await;
    long.expect(429, "RESOURCE_LIMIT");
    let admission = as_owner(at, "POST", "/api/v1/sandboxes/admission", "alice", "{}").await;
    let admission = admission.json();
    assert_eq!(
        (&admission["allowed"], &admission["queueable"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(
        (&admission["max_owner_sandboxes"], &admission["max_ttl"]),
        (&json!(1), &json!("10m0s"))
    );
    server.stop().await;
}

#[tokio::test]
async fn a_spawn_waits_in_line_and_leaves_it_with_its_client() {
    let mut options = Options::default();
    options.orchestrator.max_sandboxes = 1;
    options.orchestrator.spawn_queue = 1;
    options.providers = vec![Arc::new(Fake::default())];
    let server = Server::start(options).await;
    let at = server.address;
    let first = post(at, SANDBOXES, "{}").await.json();
    let queueable = async || {
        let answer = post(at, "/api/v1/sandboxes/admission", "{}").await.json();
        assert_eq!(answer["allowed"], false);
        answer["queueable"] == true
    };
    assert!(queueable().await);
    let ask = b"POST /api/v1/sandboxes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
    let mut gone = TcpStream::connect(at).await.unwrap();
    gone.write_all(ask).await.unwrap();
    eventually("it waits", async || !queueable().await).await;
    let wait = limited(&post(at, SANDBOXES, "{}").await);
    assert!(wait <= 30, "{wait}");
    drop(gone);
    eventually("it has left", queueable).await;

    let mut waits = TcpStream::connect(at).await.unwrap();
    waits.write_all(ask).await.unwrap();
    eventually("it waits", async || !queueable().await).await;
    let id = first["id"].as_str().unwrap();
    let path = format!("/api/v1/sandboxes/{id}");
    assert_eq!(send(at, "DELETE", &path, "", b"").await.status, 200);
    let made = read_answer(&mut waits, false).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(get(at, SANDBOXES).await.json()[0], made.json());
    server.stop().await;
}
