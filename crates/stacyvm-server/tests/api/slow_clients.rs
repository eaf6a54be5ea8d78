//! Clients that send so slowly that they would hold a connection for ever.

use std::time::Duration;

use stacyvm_server::BodyPace;
use stacyvm_types::SpawnRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, sleep, timeout};

use crate::fake::Fake;
use crate::http::{TEST_TIMEOUT, read_answer};
use crate::support::{Options, Server};

/// Between two drops; far less than any patience here.
const DROP: Duration = Duration::from_millis(50);

fn impatient() -> Options {
    let mut options = Options::default();
    options.server.connections.head_timeout = Duration::from_secs(2);
    options.server.body_pace = BodyPace {
        patience: Duration::from_secs(2),
        bytes_per_second: 64 * 1024,
    };
    options
}

/// Sends one piece after the other until something comes back or the connection ends.
async fn drip(stream: &mut TcpStream, piece: &[u8]) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while stream.write_all(piece).await.is_ok() {
        if timeout(DROP, stream.readable()).await.is_ok() {
            return;
        }
        assert!(Instant::now() < deadline, "it is still listened to");
    }
}

#[tokio::test]
async fn a_head_that_drips_is_ended_in_all_and_not_by_the_byte() {
    let server = Server::start(impatient()).await;
    let whole = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // The first head of a connection, one within its first word, and a later one.
    for (begin, later) in [
        (&b"GET / HTTP/1.1\r\nX: "[..], false),
        (b"", false),
        (b"", true),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        if later {
            stream.write_all(whole).await.unwrap();
            assert_eq!(read_answer(&mut stream, false).await.status, 200);
        }
        stream.write_all(begin).await.unwrap();
        drip(&mut stream, b"x").await;
        let mut rest = Vec::new();
        let reading = timeout(TEST_TIMEOUT, stream.read_to_end(&mut rest));
        let _ = reading.await.expect("the connection is kept");
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{rest:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_drips_is_ended_and_never_committed() {
    let fake = std::sync::Arc::new(Fake::default());
    let options = Options {
        providers: vec![fake.clone()],
        ..impatient()
    };
    let server = Server::start(options).await;
    let sandbox = server.client.spawn(&SpawnRequest::default()).await.unwrap();
    let id = sandbox.id.to_string();
    let seen = fake.seen(&id);
    let file = format!("/api/v1/sandboxes/{id}/files?path=/x");
    for (path, length, piece) in [
        ("/api/v1/sandboxes", "Content-Length: 5000", &b" "[..]),
        ("/api/v1/sandboxes", "Content-Length: 500000", b" "),
        (
            "/api/v1/sandboxes",
            "Transfer-Encoding: chunked",
            b"1\r\n \r\n",
        ),
        ("/api/v1/nothing", "Content-Length: 5000", b" "),
        (&file, "Content-Length: 500000", b"x"),
        (&file, "Transfer-Encoding: chunked", b"1\r\nx\r\n"),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        drip(&mut stream, piece).await;
        let answer = read_answer(&mut stream, false).await;
        answer.expect(400, "BAD_REQUEST");
        assert!(answer.text().contains("too slowly"), "{}", answer.text());
    }
    timeout(TEST_TIMEOUT, seen.uploaded.notified())
        .await
        .unwrap();
    let outcome = seen.upload.lock().unwrap().take().unwrap();
    assert!(outcome.is_err(), "{outcome:?}");
    server.stop().await;
}

#[tokio::test]
async fn an_upload_at_a_normal_rate_may_take_longer_than_the_patience() {
    let server = Server::start(impatient()).await;
    let sandbox = server.client.spawn(&SpawnRequest::default()).await.unwrap();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let piece = [b'x'; 64 * 1024];
    let pieces = 60;
    let head = format!(
        "POST /api/v1/sandboxes/{}/files?path=/x HTTP/1.1\r\nHost: localhost\r\n\
         Content-Length: {}\r\n\r\n",
        sandbox.id,
        piece.len() * pieces
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let begin = Instant::now();
    for _ in 0..pieces {
        stream.write_all(&piece).await.unwrap();
        sleep(DROP).await;
    }
    assert!(begin.elapsed() > Duration::from_secs(2));
    let answer = read_answer(&mut stream, false).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    server.stop().await;
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags];
    frame.extend_from_slice(&[0, 0, 0, stream]);
    frame.extend_from_slice(payload);
    frame
}

/// The kind, stream and payload of the next frame.
async fn next_frame(stream: &mut OwnedReadHalf) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let length = usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.unwrap();
    (head[3], head[8], payload)
}

#[tokio::test]
async fn frames_without_bytes_do_not_keep_a_body_alive() {
    let server = Server::start(impatient()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend(frame(4, 0, 0, b""));
    // POST, http, and two literals: the path and the authority (RFC 7541, section 6.2.2).
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(0x04, "/api/v1/sandboxes"), (0x01, "localhost")] {
        block.extend([name, u8::try_from(value.len()).unwrap()]);
        block.extend(value.as_bytes());
    }
    hello.extend(frame(1, 4, 1, &block));
    stream.write_all(&hello).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let dripping = async {
        while writer.write_all(&frame(0, 0, 1, b"")).await.is_ok() {
            sleep(DROP).await;
        }
        std::future::pending::<()>().await;
    };
    let answering = async {
        loop {
            let (kind, id, payload) = next_frame(&mut reader).await;
            // The first data of the answer.
            if (kind, id) == (0, 1) {
                return String::from_utf8(payload).unwrap();
            }
        }
    };
    let answered = tokio::select! {
        () = dripping => unreachable!(),
        answered = timeout(TEST_TIMEOUT, answering) => answered,
    };
    // The library below may drop such frames, or end a flood of them; this is our own word.
    let answer = answered.expect("it is still waited for");
    assert!(answer.contains("too slowly"), "{answer}");
    server.stop().await;
}
