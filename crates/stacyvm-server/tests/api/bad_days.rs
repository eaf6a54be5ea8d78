//! What clients hear when things go wrong below, and what things below hear when clients go.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use stacyvm_types::{ErrorCode, ExecRequest, SpawnRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::HOST_PATH;
use crate::http::{TEST_TIMEOUT, connect_narrow, exchange, get, post, read_head, send};
use crate::support::{Options, Server};

async fn spawn(server: &Server) -> String {
    let sandbox = server.client.spawn(&SpawnRequest::default()).await.unwrap();
    sandbox.id.to_string()
}

fn flood() -> ExecRequest {
    ExecRequest {
        command: "flood".to_owned(),
        mode: Some("argv".to_owned()),
        ..ExecRequest::default()
    }
}

#[tokio::test]
async fn every_failure_below_has_its_status_and_names_no_host_path() {
    let (server, _) = Server::with_fake().await;
    let at = server.address;
    let base = format!("/api/v1/sandboxes/{}/files", spawn(&server).await);
    for (path, status, code) in [
        ("/not-found", 404, "NOT_FOUND"),
        ("/invalid", 400, "BAD_REQUEST"),
        ("/denied", 400, "BAD_REQUEST"),
        ("/conflict", 409, "CONFLICT"),
        ("/limit", 429, "RESOURCE_LIMIT"),
        ("/unsupported", 422, "UNSUPPORTED"),
        ("/gone", 502, "PROVIDER_ERROR"),
        ("/failed", 502, "PROVIDER_ERROR"),
    ] {
        let body = |rest: &str| format!("{{\"path\":\"{path}\"{rest}}}");
        let moves = format!("{{\"old_path\":\"{path}\",\"new_path\":\"/y\"}}");
        let answers = [
            get(at, &format!("{base}?path={path}")).await,
            send(
                at,
                "GET",
                &format!("{base}?path={path}"),
                "Range: bytes=-1\r\n",
                b"",
            )
            .await,
            get(at, &format!("{base}/stat?path={path}")).await,
            get(at, &format!("{base}/list?path={path}")).await,
            get(at, &format!("{base}/glob?pattern={path}")).await,
            get(at, &format!("{base}/archive?path={path}")).await,
            get(at, &format!("{base}/archive?path={path}&format=tar.gz")).await,
            send(
                at,
                "PUT",
                &format!("{base}/archive?path={path}"),
                "",
                b"tar",
            )
            .await,
            send(at, "DELETE", &format!("{base}?path={path}"), "", b"").await,
            post(at, &format!("{base}?path={path}"), "raw bytes").await,
            post(at, &base, &body(",\"content\":\"x\"")).await,
            post(at, &format!("{base}/mkdir"), &body("")).await,
            post(at, &format!("{base}/chmod"), &body(",\"mode\":\"644\"")).await,
            post(at, &format!("{base}/move"), &moves).await,
        ];
        for (number, answer) in answers.iter().enumerate() {
            assert_eq!(answer.status, status, "{path} {number}: {}", answer.text());
            answer.expect(status, code);
            assert!(!answer.text().contains(HOST_PATH), "{}", answer.text());
        }
    }
    for (image, status, code) in [
        ("missing", 404, "NOT_FOUND"),
        ("broken", 502, "PROVIDER_ERROR"),
        ("full", 429, "RESOURCE_LIMIT"),
        ("sick", 503, "UNAVAILABLE"),
    ] {
        let body = format!("{{\"image\":\"{image}\"}}");
        let answer = post(at, "/api/v1/sandboxes", &body).await;
        assert_eq!(answer.status, status, "{image}: {}", answer.text());
        answer.expect(status, code);
        assert!(!answer.text().contains(HOST_PATH), "{}", answer.text());
    }
    server.stop().await;
}

#[tokio::test]
async fn files_that_change_while_they_are_read_are_never_passed_off_as_whole() {
    let (server, _) = Server::with_fake().await;
    let at = server.address;
    let id = spawn(&server).await;
    let base = format!("/api/v1/sandboxes/{id}/files");
    for path in ["/grows", "/grows-within-a-piece"] {
        let answer = get(at, &format!("{base}?path={path}")).await;
        assert_eq!((answer.status, answer.text()), (200, "abc"), "{path}");
    }
    let answer = get(at, &format!("{base}?path=/made-up")).await;
    assert_eq!(answer.text(), "made by the kernel");
    for path in ["/shrinks", "/breaks"] {
        let broken = server.client.read_file(&id, path).await.unwrap_err();
        assert_eq!(
            broken.code(),
            None,
            "{path}: a broken connection, no answer"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_slow_reader_stops_the_command_and_not_the_memory() {
    let (server, fake) = Server::with_fake().await;
    let id = spawn(&server).await;
    let seen = fake.seen(&id);
    let body = "{\"command\":\"flood\",\"mode\":\"argv\",\"stream\":true}";
    let mut stream = connect_narrow(server.address).await;
    let request = format!(
        "POST /api/v1/sandboxes/{id}/exec HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (status, _, _) = read_head(&mut stream).await;
    assert_eq!(status, 200);
    // Nothing is read any more. The count must come to rest while others are served.
    let mut before = u64::MAX;
    let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
    loop {
        for _ in 0..200 {
            get(server.address, "/api/v1/health").await;
        }
        let now = seen.flooded.load(Ordering::Relaxed);
        if now == before {
            break;
        }
        before = now;
        assert!(
            tokio::time::Instant::now() < deadline,
            "still printing: {now} pieces"
        );
    }
    // What fits into the sockets' own buffers and ours, far from the memory of a machine.
    assert!(
        before < 512,
        "{before} pieces of 64 KiB were taken without a reader"
    );
    // The reader goes on, and so does the command.
    let mut sink = vec![0; 1 << 20];
    while seen.flooded.load(Ordering::Relaxed) <= before + 8 {
        assert!(stream.read(&mut sink).await.unwrap() > 0);
    }
    // The reader goes, and so does the command.
    drop(stream);
    tokio::time::timeout(TEST_TIMEOUT, seen.abandoned.notified())
        .await
        .unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_dropped_stream_and_a_dropped_synchronous_exec_end_the_command() {
    let (server, fake) = Server::with_fake().await;
    let id = spawn(&server).await;
    let seen = fake.seen(&id);
    let mut lines = server.client.exec_stream(&id, &flood()).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().stream, "stdout");
    drop(lines);
    tokio::time::timeout(TEST_TIMEOUT, seen.abandoned.notified())
        .await
        .unwrap();
    let client = server.client.clone();
    let exec = tokio::spawn({
        let id = id.clone();
        async move { client.exec(&id, &flood()).await }
    });
    let before = seen.flooded.load(Ordering::Relaxed);
    while seen.flooded.load(Ordering::Relaxed) < before + 8 {
        tokio::task::yield_now().await;
    }
    exec.abort();
    tokio::time::timeout(TEST_TIMEOUT, seen.abandoned.notified())
        .await
        .unwrap();
    server.stop().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_never_committed() {
    let (server, fake) = Server::with_fake().await;
    let id = spawn(&server).await;
    let seen = fake.seen(&id);
    let path = format!("/api/v1/sandboxes/{id}/files?path=/x");
    for (head, sent) in [
        ("Content-Length: 1000000\r\n", vec![b'x'; 200_000]),
        ("Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n".to_vec()),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        drop(stream);
        tokio::time::timeout(TEST_TIMEOUT, seen.uploaded.notified())
            .await
            .unwrap();
        let outcome = seen.upload.lock().unwrap().take().unwrap();
        assert!(outcome.is_err(), "{head}: {outcome:?}");
    }
    let done = post(server.address, &path, "whole").await;
    assert_eq!(done.text(), "{\"status\":\"written\"}");
    tokio::time::timeout(TEST_TIMEOUT, seen.uploaded.notified())
        .await
        .unwrap();
    assert_eq!(
        seen.upload.lock().unwrap().take(),
        Some(Ok(b"whole".to_vec()))
    );
    server.stop().await;
}

#[tokio::test]
async fn files_over_the_cap_are_refused_and_not_committed() {
    let mut options = Options::default();
    options.server.file_limit = 100_000;
    let fake = std::sync::Arc::new(crate::fake::Fake::default());
    options.providers = vec![fake.clone()];
    let server = Server::start(options).await;
    let id = spawn(&server).await;
    let seen = fake.seen(&id);
    let path = format!("/api/v1/sandboxes/{id}/files?path=/x");
    let answer = send(server.address, "POST", &path, "", &[b'x'; 100_001]).await;
    answer.expect(413, "PAYLOAD_TOO_LARGE");
    assert!(seen.upload.lock().unwrap().is_none());
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for _ in 0..11 {
        request.extend_from_slice(b"2710\r\n");
        request.extend_from_slice(&[b'x'; 10_000]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    exchange(server.address, &request)
        .await
        .expect(413, "PAYLOAD_TOO_LARGE");
    let outcome = seen.upload.lock().unwrap().take().unwrap();
    assert!(outcome.is_err(), "{outcome:?}");
    let answer = send(server.address, "POST", &path, "", &[b'x'; 100_000]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    server.stop().await;
}

#[tokio::test]
async fn a_failure_before_the_start_is_an_ordinary_error_also_when_streaming() {
    let (server, _) = Server::with_fake().await;
    let id = spawn(&server).await;
    let request = ExecRequest {
        command: "refuse".to_owned(),
        ..flood()
    };
    let error = server.client.exec_stream(&id, &request).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::BadRequest));
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_ends_streams_and_refuses_new_work() {
    let fake = std::sync::Arc::new(crate::fake::Fake::default());
    let options = Options {
        providers: vec![fake.clone()],
        ..Options::default()
    };
    let server = Server::alone(options).await;
    let id = spawn(&server).await;
    let seen = fake.seen(&id);
    let mut lines = server.client.exec_stream(&id, &flood()).await.unwrap();
    lines.next().await.unwrap().unwrap();
    let reader = tokio::spawn(async move {
        let mut last = None;
        while let Some(line) = lines.next().await {
            last = Some(line);
        }
        last.unwrap()
    });
    let client = server.client.clone();
    let orchestrator = server.orchestrator.clone();
    let stopping = tokio::spawn(server.stop_within(Duration::from_millis(50)));
    tokio::time::timeout(TEST_TIMEOUT, seen.abandoned.notified())
        .await
        .unwrap();
    tokio::time::timeout(TEST_TIMEOUT, stopping)
        .await
        .unwrap()
        .unwrap();
    // Either an exit line that says so, or a broken stream: never a silent end.
    if let Ok(last) = reader.await.unwrap() {
        assert_eq!((last.stream.as_str(), last.exit_code), ("exit", Some(137)));
    }
    assert!(orchestrator.ready().is_err());
    let error = client.health().await.unwrap_err();
    assert!(
        error
            .hint()
            .is_some_and(|hint| hint.contains("stacyvm serve")),
        "{error}"
    );
}

#[tokio::test]
async fn connections_that_are_idle_do_not_hold_a_shutdown_up() {
    let mut options = Options::default();
    // Waiting for any of them would outlast the patience below.
    options.server.drain_timeout = Duration::from_secs(3600);
    let server = Server::start(options).await;
    // One that has asked, one that never says a word, one within its first head.
    server.client.health().await.unwrap();
    let silent = TcpStream::connect(server.address).await.unwrap();
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /api/v1/he").await.unwrap();
    get(server.address, "/api/v1/health").await;
    let stopped = tokio::time::timeout(TEST_TIMEOUT, server.stop()).await;
    assert!(stopped.is_ok(), "an idle connection holds the shutdown up");
    drop((silent, slow));
}
