//! What the door decides on the head of a request, before it has seen a byte of the body.

use std::net::SocketAddr;

use stacyvm_orchestrator::Caller;
use stacyvm_types::SpawnRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::{Answer, TEST_TIMEOUT, exchange, get, read_answer, read_head, send};
use crate::support::{Options, Server};

const SANDBOXES: &str = "/api/v1/sandboxes";
const FILES: &str = "/api/v1/sandboxes/sb-00000000/files?path=/x";
const RIGHT: &str = "X-API-Key: right-key\r\n";

fn with_key() -> Options {
    let mut options = Options::default();
    options.server.api_key = Some("right-key".into());
    options
}

/// A POST without its body.
fn head(path: &str, headers: &str) -> String {
    let host = if headers.contains("Host:") {
        ""
    } else {
        "Host: localhost\r\n"
    };
    format!("POST {path} HTTP/1.1\r\n{host}{headers}\r\n")
}

/// What the server says to a head alone.
async fn say(at: SocketAddr, path: &str, headers: &str) -> (TcpStream, Answer) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream
        .write_all(head(path, headers).as_bytes())
        .await
        .unwrap();
    let answer = read_answer(&mut stream, false).await;
    (stream, answer)
}

/// Waits until the server has ended the connection.
async fn ended(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let reading = tokio::time::timeout(TEST_TIMEOUT, stream.read_to_end(&mut rest));
    // A reset is an end as well.
    let _ = reading.await.expect("the connection is kept");
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

/// A small body, one that is streamed, one over every limit, and one of unknown length.
const BODIES: [&str; 4] = [
    "Content-Length: 10\r\n",
    "Content-Length: 1000000\r\n",
    "Content-Length: 99000000000\r\n",
    "Transfer-Encoding: chunked\r\n",
];

#[tokio::test]
async fn a_key_is_checked_before_the_body_comes_whatever_the_route() {
    let server = Server::start(with_key()).await;
    for path in [SANDBOXES, FILES, "/api/v1/nothing", "/api/v1/health"] {
        for body in BODIES {
            for key in [
                "",
                "X-API-Key: wrong\r\n",
                "Authorization: Bearer wrong\r\n",
            ] {
                for expect in ["", "Expect: 100-continue\r\n"] {
                    let headers = format!("{body}{key}{expect}");
                    let (mut stream, answer) = say(server.address, path, &headers).await;
                    answer.expect(401, "UNAUTHORIZED");
                    assert!(answer.header("x-request-id").is_some());
                    if !expect.is_empty() {
                        assert_eq!(answer.header("connection"), Some("close"), "{headers}");
                        ended(&mut stream).await;
                    }
                }
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn host_origin_and_rate_are_checked_before_the_body_comes() {
    let mut options = Options::default();
    options.server.rates.requests_per_second = 1;
    let server = Server::start(options).await;
    let at = server.address;
    let mut limited = false;
    for body in BODIES {
        for expect in ["", "Expect: 100-continue\r\n"] {
            for refused in ["Host: evil.example\r\n", "Origin: http://evil.example\r\n"] {
                let headers = format!("{body}{expect}{refused}");
                for path in [SANDBOXES, FILES, "/api/v1/nothing"] {
                    let (_, answer) = say(at, path, &headers).await;
                    answer.expect(403, "FORBIDDEN");
                }
            }
            // One that asked a moment ago, and so is over its rate in all but a slow moment.
            for _ in 0..20 {
                get(at, SANDBOXES).await;
                let (mut stream, status) = begin(at, &format!("{body}{expect}")).await;
                if status == Some(429) {
                    limited = true;
                    break;
                }
                stream.shutdown().await.unwrap();
            }
            assert!(limited, "{body}{expect}");
        }
    }
    server.stop().await;
}

/// Sends a head and gives the status of the answer, unless the server wants the body.
async fn begin(at: SocketAddr, headers: &str) -> (TcpStream, Option<u16>) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head = head("/api/v1/nothing", headers);
    stream.write_all(head.as_bytes()).await.unwrap();
    let waiting = std::time::Duration::from_millis(500);
    let answered = tokio::time::timeout(waiting, read_head(&mut stream)).await;
    let status = answered.ok().map(|(status, ..)| status);
    (stream, status)
}

#[tokio::test]
async fn a_refused_body_that_comes_all_the_same_leaves_the_connection_usable() {
    let server = Server::start(with_key()).await;
    for length in [10, 300_000] {
        let headers = format!("Content-Length: {length}\r\n");
        let (mut stream, answer) = say(server.address, SANDBOXES, &headers).await;
        answer.expect(401, "UNAUTHORIZED");
        stream.write_all(&vec![b' '; length]).await.unwrap();
        let next = format!("GET {SANDBOXES} HTTP/1.1\r\nHost: localhost\r\n{RIGHT}\r\n");
        stream.write_all(next.as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream, false).await;
        assert_eq!((answer.status, answer.text()), (200, "[]"));
    }
    // Sent at once, as most clients do.
    for length in [10, 300_000, 5_000_000] {
        let answer = send(server.address, "POST", SANDBOXES, "", &vec![b' '; length]).await;
        answer.expect(401, "UNAUTHORIZED");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_waits_for_100_continue_is_told_what_is_wrong_instead() {
    let mut options = with_key();
    options.server.json_limit = 1000;
    options.server.file_limit = 2000;
    let server = Server::start(options).await;
    let at = server.address;
    let (caller, request) = (Caller::default(), SpawnRequest::default());
    let sandbox = server.orchestrator.spawn(&caller, request, None).await;
    let file = format!("{SANDBOXES}/{}/files?path=/x", sandbox.unwrap().id);
    let expecting = format!("{RIGHT}Expect: 100-Continue\r\n");
    for (path, length, status, code) in [
        (SANDBOXES, 1001, 413, "PAYLOAD_TOO_LARGE"),
        (&file, 2001, 413, "PAYLOAD_TOO_LARGE"),
        ("/api/v1/nothing", 10, 404, "NOT_FOUND"),
        ("/nothing", 1_000_000, 404, "NOT_FOUND"),
        ("/api/v1/health", 10, 405, "METHOD_NOT_ALLOWED"),
        ("/api/v1/sandboxes/x/extend", 10, 404, "NOT_FOUND"),
    ] {
        let kind = "Content-Type: application/octet-stream\r\n";
        let headers = format!("{expecting}{kind}Content-Length: {length}\r\n");
        let (mut stream, answer) = say(at, path, &headers).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        answer.expect(status, code);
        ended(&mut stream).await;
    }
    // Who is welcome is asked for the body.
    let mut stream = TcpStream::connect(at).await.unwrap();
    let headers = format!("{expecting}Content-Length: 2\r\n");
    let welcome = head(SANDBOXES, &headers);
    stream.write_all(welcome.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut stream).await.0, 100);
    stream.write_all(b"{}").await.unwrap();
    let answer = read_answer(&mut stream, false).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    server.stop().await;
}

#[tokio::test]
async fn the_key_is_taken_as_a_bearer_token_too() {
    let server = Server::start(with_key()).await;
    let at = server.address;
    for right in [
        "Authorization: Bearer right-key\r\n",
        "authorization: bearer right-key\r\n",
        "Authorization: Basic eDp5\r\nX-API-Key: right-key\r\n",
    ] {
        let answer = send(at, "GET", SANDBOXES, right, b"").await;
        assert_eq!(answer.status, 200, "{right}");
    }
    for wrong in [
        "Authorization: right-key\r\n",
        "Authorization: Basic right-key\r\n",
        "Authorization: Bearer right-key2\r\n",
        "X-API-Key: Bearer right-key\r\n",
    ] {
        let answer = send(at, "GET", SANDBOXES, wrong, b"").await;
        answer.expect(401, "UNAUTHORIZED");
    }
    let preflight = "OPTIONS /api/v1/sandboxes HTTP/1.1\r\nHost: localhost:7423\r\n\
                     Origin: http://localhost:7423\r\nAccess-Control-Request-Method: POST\r\n\r\n";
    let answer = exchange(at, preflight.as_bytes()).await;
    let allowed = answer.header("access-control-allow-headers").unwrap();
    assert!(allowed.contains("Authorization"), "{allowed}");
    server.stop().await;
}

#[tokio::test]
async fn a_right_key_passes_however_many_wrong_ones_come_from_its_address() {
    let mut options = with_key();
    options.server.rates.auth_failures_per_minute = 3;
    let server = Server::start(options).await;
    let at = server.address;
    let with = async |headers: &str| send(at, "GET", SANDBOXES, headers, b"").await;
    for number in 0..20 {
        let answer = with("X-API-Key: wrong\r\n").await;
        let code = ["RESOURCE_LIMIT", "UNAUTHORIZED"][usize::from(number < 3)];
        answer.expect(if number < 3 { 401 } else { 429 }, code);
        assert_eq!(answer.header("retry-after").is_some(), number >= 3);
        assert_eq!(with(RIGHT).await.status, 200);
        assert_eq!(
            with("Authorization: Bearer right-key\r\n").await.status,
            200
        );
    }
    // Both ways to send a wrong one count together, and none at all is no guess.
    let wrong = with("Authorization: Bearer wrong\r\n").await;
    wrong.expect(429, "RESOURCE_LIMIT");
    with("").await.expect(401, "UNAUTHORIZED");
    server.stop().await;
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_told_apart_and_nobody_else_is_believed() {
    for trusted in [true, false] {
        let mut options = with_key();
        options.server.rates.auth_failures_per_minute = 2;
        if trusted {
            options.server.trusted_proxies = vec![
                "127.0.0.0/8".parse().unwrap(),
                "10.0.0.0/8".parse().unwrap(),
            ];
        }
        let server = Server::start(options).await;
        let at = server.address;
        let wrong = async |forwarded: &str| {
            let headers = format!("X-API-Key: wrong\r\nX-Forwarded-For: {forwarded}\r\n");
            send(at, "GET", SANDBOXES, &headers, b"").await.status
        };
        for _ in 0..2 {
            assert_eq!(wrong("198.51.100.1").await, 401);
        }
        assert_eq!(wrong("198.51.100.1").await, 429);
        // Another client, also through a second proxy of ours.
        let expected = if trusted { 401 } else { 429 };
        assert_eq!(wrong("198.51.100.2").await, expected);
        assert_eq!(wrong("198.51.100.2, 10.1.1.1").await, expected);
        assert_eq!(wrong("198.51.100.2").await, 429);
        // What a client writes itself stands on the left of what the proxy adds.
        assert_eq!(wrong("203.0.113.9, 198.51.100.1").await, 429);
        assert_eq!(wrong("10.1.1.1, 198.51.100.1").await, 429);
        server.stop().await;
    }
}
