//! What the client makes of servers that vanish, close and break off.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures_util::StreamExt;
use stacyvm_client::{Client, ClientError};
use stacyvm_types::{ErrorCode, ExecRequest, SpawnRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const TEST_TIMEOUT: Duration = Duration::from_secs(60);
const HEALTH: &str = "{\"status\":\"ok\",\"version\":\"1\",\"uptime\":\"1s\"}";

fn answer(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn listen() -> (TcpListener, Client) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (
        listener,
        Client::new(&url, Some("key"), Some("alice")).unwrap(),
    )
}

/// Reads one whole request: a connection that is closed before its last byte was read breaks at the
/// client's end too. None when the client is gone.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .to_ascii_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn nobody_listening_is_told_with_the_address_and_the_way_out() {
    // Its port is taken, so that no other listens there, and not listened on.
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", taken.local_addr().unwrap());
    let client = Client::new(&url, None, None).unwrap();
    let error = client.health().await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }));
    assert!(error.to_string().contains(client.server()), "{error}");
    assert!(error.hint().unwrap().contains("stacyvm serve"));
}

#[tokio::test]
async fn one_connection_serves_many_calls_and_carries_key_and_owner() {
    let (listener, client) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..3 {
            let head = request(&mut stream).await.unwrap().to_ascii_lowercase();
            assert!(head.contains("x-api-key: key\r\n"), "{head}");
            assert!(head.contains("x-user-id: alice\r\n"), "{head}");
            stream.write_all(answer(HEALTH).as_bytes()).await.unwrap();
        }
    });
    for _ in 0..3 {
        assert_eq!(client.health().await.unwrap().status, "ok");
    }
    tokio::time::timeout(TEST_TIMEOUT, server)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_kept_connection_that_dies_costs_a_read_nothing_and_repeats_no_spawn() {
    let (listener, client) = listen().await;
    let server = tokio::spawn(async move {
        let mut spawns = 0;
        // Each connection answers once and dies at the second request, after having read it.
        while spawns == 0 {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream).await.unwrap();
            stream.write_all(answer(HEALTH).as_bytes()).await.unwrap();
            if let Some(second) = request(&mut stream).await {
                spawns += usize::from(second.starts_with("POST"));
            }
        }
        // Who comes next does not come for the spawn again.
        let (mut stream, _) = listener.accept().await.unwrap();
        let next = request(&mut stream).await.unwrap();
        assert!(next.starts_with("GET"), "the spawn was sent twice");
        stream.write_all(answer(HEALTH).as_bytes()).await.unwrap();
    });
    client.health().await.unwrap();
    client.health().await.unwrap();
    let error = client.spawn(&SpawnRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Transport { .. }), "{error}");
    client.health().await.unwrap();
    tokio::time::timeout(TEST_TIMEOUT, server)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_stream_without_its_exit_line_is_an_error() {
    let (listener, client) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await.unwrap();
        let line = "{\"stream\":\"stdout\",\"data\":\"x\"}\n";
        stream.write_all(answer(line).as_bytes()).await.unwrap();
    });
    let request = ExecRequest::default();
    let mut lines = client.exec_stream("sb-00000000", &request).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().data, "x");
    assert!(lines.next().await.unwrap().is_err());
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn errors_keep_the_servers_code_and_words() {
    let (listener, client) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for body in [
            "{\"code\":\"NOT_FOUND\",\"message\":\"no such thing\"}",
            "<html>",
        ] {
            request(&mut stream).await.unwrap();
            let answer = answer(body).replace("200 OK", "404 Not Found");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let error = client.get("sb-00000000").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotFound));
    assert_eq!(error.to_string(), "no such thing");
    let error = client.get("sb-00000000").await.unwrap_err();
    assert!(error.to_string().contains("<html>"), "{error}");
}
