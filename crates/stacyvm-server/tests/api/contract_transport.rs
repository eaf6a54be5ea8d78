//! Request ids, slashes, caps and errors on every kind of answer: contract section 1.

use stacyvm_server::ServerSettings;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::contract_access::UPGRADE;
use crate::fake::HOST_PATH;
use crate::http::{get, post, read_head, send};
use crate::mock::Mocked;
use crate::support::{Options, Server};

#[tokio::test]
async fn the_request_id_is_on_every_kind_of_answer() {
    let (server, _) = Server::with_fake().await;
    let at = server.address;
    let made = post(at, "/api/v1/sandboxes", "{}").await.json();
    let one = format!("/api/v1/sandboxes/{}", made["id"].as_str().unwrap());
    let preflight = "Origin: http://localhost\r\nAccess-Control-Request-Method: POST\r\n";
    let evil = "Host: evil.example\r\n";
    let range = "Range: bytes=5-\r\n";
    let stream = r#"{"command":"x","mode":"argv","stream":true}"#;
    let announced = "Content-Length: 4194305\r\n";
    for (method, path, headers, body, status) in [
        ("GET", "/nothing", "", "", 404),
        ("PATCH", "/api/v1/sandboxes", "", "", 405),
        ("OPTIONS", "/api/v1/health", "", "", 204),
        ("OPTIONS", "/api/v1/health", preflight, "", 204),
        ("HEAD", "/api/v1/health", "", "", 200),
        ("GET", "/api/v1/health", evil, "", 403),
        ("GET", "/docs", "", "", 200),
        ("GET", "/openapi.json", "", "", 200),
        ("GET", "/api/v1/metrics/prometheus", "", "", 200),
        ("GET", "/api/v1/events", "", "", 200),
        ("GET", "/api/v1/events?type=no", "", "", 400),
        ("GET", &format!("{one}/exec/ws"), UPGRADE, "", 101),
        ("GET", "/api/v1/sandboxes/sb-0/exec/ws", UPGRADE, "", 404),
        ("GET", &format!("{one}/exec/ws"), "", "", 400),
        ("POST", &format!("{one}/exec"), "", stream, 200),
        ("GET", &format!("{one}/files?path=/x"), "", "", 200),
        ("GET", &format!("{one}/files?path=/grows"), range, "", 416),
        ("GET", &format!("{one}/files/archive?path=/x"), "", "", 200),
        ("GET", &format!("{one}/files?path=/panic"), "", "", 500),
        ("GET", &format!("{one}/files?path=/failed"), "", "", 502),
        ("GET", &format!("{one}/files?path=/limit"), "", "", 429),
        ("POST", "/api/v1/sandboxes", announced, "", 413),
    ] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let host = if headers == evil {
            ""
        } else {
            "Host: localhost\r\n"
        };
        let mut request =
            format!("{method} {path} HTTP/1.1\r\n{host}{headers}X-Request-ID: trace-9\r\n");
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str(&format!("\r\n{body}"));
        stream.write_all(request.as_bytes()).await.unwrap();
        if status == 413 {
            stream.write_all(&vec![b' '; 4_194_305]).await.unwrap();
        }
        let (answered, headers, _) = read_head(&mut stream).await;
        assert_eq!(answered, status, "{method} {path}");
        let ids: Vec<_> = headers
            .iter()
            .filter(|(name, _)| name == "x-request-id")
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(ids, ["trace-9"], "{method} {path}");
    }
    server.stop().await;
    let mut options = Options::default();
    options.server.api_key = Some("right-key".into());
    let server = Server::start(options).await;
    let refused = send(
        server.address,
        "GET",
        "/api/v1/sandboxes",
        "X-Request-ID: trace-9\r\n",
        b"",
    )
    .await;
    refused.expect(401, "UNAUTHORIZED");
    assert_eq!(refused.header("x-request-id"), Some("trace-9"));
    server.stop().await;
}

#[tokio::test]
async fn our_own_mistakes_are_internal_errors_without_a_word_about_the_host() {
    let (server, _) = Server::with_fake().await;
    let at = server.address;
    let made = post(at, "/api/v1/sandboxes", "{}").await.json();
    let one = format!("/api/v1/sandboxes/{}", made["id"].as_str().unwrap());
    let answer = get(at, &format!("{one}/files?path=/panic")).await;
    answer.expect(500, "INTERNAL_ERROR");
    assert!(!answer.text().contains(HOST_PATH), "{}", answer.text());
    assert!(!answer.text().contains("mistake"), "{}", answer.text());
    assert_eq!(get(at, &one).await.status, 200, "the server goes on");
    server.stop().await;
}

#[tokio::test]
async fn a_trailing_slash_changes_nothing_on_any_collection() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let ran = format!("/api/v1/sandboxes/{id}/exec");
    let run = r#"{"command":"true","detach":true}"#;
    let exec = post(at, &ran, run).await.json()["exec_id"].clone();
    let execs = format!("/api/v1/sandboxes/{id}/execs");
    get(at, &format!("{execs}/{}/wait", exec.as_str().unwrap())).await;
    post(at, "/api/v1/quotas/", r#"{"owner_id":"bob"}"#).await;
    for path in [
        "/api/v1/sandboxes",
        "/api/v1/providers",
        "/api/v1/quotas",
        "/api/v1/templates",
        "/api/v1/snapshots",
        &execs,
    ] {
        let plain = get(at, path).await;
        let slash = get(at, &format!("{path}/")).await;
        assert_eq!((plain.status, slash.status), (200, 200), "{path}");
        assert_eq!(plain.text(), slash.text(), "{path}");
        let queried = get(at, &format!("{path}/?unknown=1")).await;
        assert_eq!(queried.text(), plain.text(), "{path}");
    }
    for path in ["/api/v1/sandboxes/", "/api/v1/tickets/"] {
        assert_eq!(post(at, path, "{}").await.status, 201, "{path}");
    }
    let pruned = send(at, "DELETE", "/api/v1/sandboxes/", "", b"").await;
    assert_eq!(pruned.text(), "{\"pruned\":0}");
    server.stop().await;
}

#[tokio::test]
async fn every_route_has_its_cap_and_files_one_of_their_own() {
    let defaults = ServerSettings::default();
    assert_eq!(
        (defaults.json_limit, defaults.file_limit),
        (4 << 20, 1 << 30)
    );
    let mut options = Options::default();
    options.server.json_limit = 1000;
    options.server.file_limit = 5000;
    let server = Server::start(options).await;
    let at = server.address;
    let made = post(at, "/api/v1/sandboxes", "{}").await.json();
    let one = format!("/api/v1/sandboxes/{}", made["id"].as_str().unwrap());
    let body = |length: usize| format!("{{\"x\":\"{}\"}}", "x".repeat(length - 8)).into_bytes();
    let missing = "/api/v1/sandboxes/sb-00000000/execs/ex-1";
    for (method, path) in [
        ("POST", "/api/v1/sandboxes"),
        ("POST", "/api/v1/sandboxes/admission"),
        ("POST", &format!("{one}/extend")),
        ("POST", &format!("{one}/exec")),
        ("POST", &format!("{one}/files")),
        ("POST", &format!("{one}/files/move")),
        ("POST", &format!("{one}/files/chmod")),
        ("POST", &format!("{one}/files/mkdir")),
        ("POST", &format!("{missing}/stdin")),
        ("POST", &format!("{missing}/signal")),
        ("POST", &format!("{missing}/resize")),
        ("POST", "/api/v1/quotas"),
        ("PUT", "/api/v1/quotas/bob"),
        ("POST", "/api/v1/tickets"),
    ] {
        let answer = send(at, method, path, "", &body(1001)).await;
        assert_eq!(answer.status, 413, "{method} {path}: {}", answer.text());
        answer.expect(413, "PAYLOAD_TOO_LARGE");
        let answer = send(at, method, path, "", &body(1000)).await;
        assert_ne!(answer.status, 413, "{method} {path}: {}", answer.text());
    }
    let raw = format!("{one}/files?path=/x");
    let archive = format!("{one}/files/archive?path=/x");
    for (method, path) in [("POST", &raw), ("PUT", &archive)] {
        let answer = send(at, method, path, "", &[b'x'; 5000]).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let answer = send(at, method, path, "", &[b'x'; 5001]).await;
        answer.expect(413, "PAYLOAD_TOO_LARGE");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_oddest_requests_hear_the_same_form_of_error() {
    let server = Server::plain().await;
    let at = server.address;
    for (method, path, status, code) in [
        ("BREW", "/api/v1/health", 405, "METHOD_NOT_ALLOWED"),
        ("TRACE", "/api/v1/sandboxes", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/docs", 405, "METHOD_NOT_ALLOWED"),
        ("BREW", "/nothing", 404, "NOT_FOUND"),
        ("GET", "*", 404, "NOT_FOUND"),
        ("GET", "/api/v1/%2e%2e/health", 404, "NOT_FOUND"),
        ("GET", "/api/v1/sandboxes//", 404, "NOT_FOUND"),
        ("POST", "/api/v1/health/", 404, "NOT_FOUND"),
        ("GET", "http://localhost/api/v1/nothing", 404, "NOT_FOUND"),
        ("GET", "http://evil.example/api/v1/health", 403, "FORBIDDEN"),
    ] {
        let answer = send(at, method, path, "", b"").await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        answer.expect(status, code);
        assert_eq!(answer.header("x-request-id").unwrap().len(), 36);
    }
    server.stop().await;
}
