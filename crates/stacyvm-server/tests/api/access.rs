//! Access by key, host and origin: contract section 2, and the rows of section 1.

use stacyvm_client::Client;

use crate::http::{get, send};
use crate::support::{Options, Server};

fn with_key() -> Options {
    let mut options = Options::default();
    options.server.api_key = Some("right-key".into());
    options
}

#[tokio::test]
async fn a_configured_key_is_asked_for_everywhere_but_at_the_probes() {
    let server = Server::start(with_key()).await;
    let at = server.address;
    for (method, path) in [
        ("GET", "/api/v1/health"),
        ("GET", "/api/v1/sandboxes"),
        ("POST", "/api/v1/sandboxes"),
        ("GET", "/api/v1/sandboxes/sb-00000000/files?path=/x"),
        ("GET", "/api/v1/providers"),
        ("GET", "/api/v1/metrics"),
        ("GET", "/api/v1/metrics/prometheus"),
        ("GET", "/api/v1/templates"),
        ("GET", "/api/v1/sandboxes/sb-00000000/exec/ws"),
        ("PUT", "/api/v1/health"),
        ("GET", "/api/v1/nothing"),
    ] {
        for header in [
            "",
            "X-API-Key: \r\n",
            "X-API-Key: right-kez\r\n",
            "X-API-Key: right-key2\r\n",
        ] {
            let answer = send(at, method, path, header, b"").await;
            assert_eq!(answer.status, 401, "{method} {path} {header}");
            answer.expect(401, "UNAUTHORIZED");
        }
    }
    for probe in ["/api/v1/live", "/api/v1/ready"] {
        assert_eq!(get(at, probe).await.status, 200, "{probe}");
    }
    let answer = send(at, "GET", "/api/v1/health", "X-API-Key: right-key\r\n", b"").await;
    assert_eq!(answer.status, 200);
    let url = format!("http://{at}");
    assert!(
        Client::new(&url, Some("right-key"), None)
            .unwrap()
            .health()
            .await
            .is_ok()
    );
    let error = Client::new(&url, Some("wrong"), None)
        .unwrap()
        .health()
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(stacyvm_types::ErrorCode::Unauthorized));
    assert!(error.hint().is_some());
    server.stop().await;
}

#[tokio::test]
async fn without_a_key_foreign_host_names_are_refused() {
    let mut options = Options::default();
    options.server.allowed_hosts = vec!["box.example.org".to_owned()];
    let server = Server::start(options).await;
    let at = server.address;
    for host in [
        "localhost:7423",
        "127.0.0.1",
        "[::1]:7423",
        "box.example.org",
        "10.1.2.3:80",
    ] {
        let answer = send(
            at,
            "GET",
            "/api/v1/health",
            &format!("Host: {host}\r\n"),
            b"",
        )
        .await;
        assert_eq!(answer.status, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", ""] {
        for path in ["/api/v1/health", "/api/v1/live", "/", "/api/v1/nothing"] {
            let answer = send(at, "GET", path, &format!("Host: {host}\r\n"), b"").await;
            answer.expect(403, "FORBIDDEN");
        }
    }
    let twice = "Host: localhost\r\nHost: evil.example\r\n";
    let answer = send(at, "GET", "/api/v1/health", twice, b"").await;
    answer.expect(400, "BAD_REQUEST");
    server.stop().await;
    // With a key the name says nothing.
    let server = Server::start(with_key()).await;
    let headers = "Host: evil.example\r\nX-API-Key: right-key\r\n";
    let answer = send(server.address, "GET", "/api/v1/health", headers, b"").await;
    assert_eq!(answer.status, 200);
    server.stop().await;
}

const PREFLIGHT: &str = "Access-Control-Request-Method: POST\r\n";

#[tokio::test]
async fn preflights_come_before_the_key_and_follow_the_list() {
    let mut options = with_key();
    options.server.cors_allowed_origins = vec!["https://app.example.org".to_owned()];
    let server = Server::start(options).await;
    let at = server.address;
    let ask = |origin: &str| format!("Host: localhost:7423\r\nOrigin: {origin}\r\n{PREFLIGHT}");
    for origin in ["https://app.example.org", "http://localhost:7423"] {
        let answer = send(at, "OPTIONS", "/api/v1/sandboxes", &ask(origin), b"").await;
        assert_eq!(answer.status, 204, "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let headers = answer.header("access-control-allow-headers").unwrap();
        assert!(headers.contains("X-API-Key"), "{headers}");
        assert!(
            answer
                .header("access-control-allow-methods")
                .unwrap()
                .contains("DELETE")
        );
    }
    let answer = send(
        at,
        "OPTIONS",
        "/api/v1/sandboxes",
        &ask("http://evil.example"),
        b"",
    )
    .await;
    answer.expect(403, "FORBIDDEN");
    assert_eq!(answer.header("access-control-allow-origin"), None);
    // The answer itself carries the mark, also when it is an error.
    let headers = "Origin: https://app.example.org\r\n";
    let answer = send(at, "GET", "/api/v1/health", headers, b"").await;
    answer.expect(401, "UNAUTHORIZED");
    let allowed = answer.header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://app.example.org"));
    assert_eq!(answer.header("vary"), Some("Origin"));
    server.stop().await;
}

#[tokio::test]
async fn without_a_key_foreign_pages_change_nothing() {
    let server = Server::plain().await;
    let at = server.address;
    for origin in ["http://evil.example", "null"] {
        let headers = format!("Origin: {origin}\r\n");
        let answer = send(at, "POST", "/api/v1/sandboxes", &headers, b"{}").await;
        answer.expect(403, "FORBIDDEN");
        let answer = send(at, "DELETE", "/api/v1/sandboxes/sb-00000000", &headers, b"").await;
        answer.expect(403, "FORBIDDEN");
        let answer = send(at, "GET", "/api/v1/health", &headers, b"").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    server.stop().await;
    let mut options = Options::default();
    options.server.cors_allowed_origins = vec!["*".to_owned()];
    let server = Server::start(options).await;
    let headers = "Origin: http://evil.example\r\n";
    let answer = send(server.address, "GET", "/api/v1/health", headers, b"").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    server.stop().await;
}
