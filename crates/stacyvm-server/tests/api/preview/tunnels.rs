//! Upgrades: a WebSocket's and any other's.

use super::*;
use crate::http::read_answer;

const ASKS: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: echo\r\n";
const AGREES: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

/// A tunnel's two ends.
async fn tunnel(front: &Front, inside: &Inside) -> (TcpStream, Visit) {
    let mut client = front.connect().await;
    let request = front.request("GET", "/ws", ASKS);
    client.write_all(request.as_bytes()).await.unwrap();
    let (visit, head) = inside.serve_once(AGREES).await;
    assert_eq!(header(&head, "upgrade"), Some("echo"));
    assert_eq!(header(&head, "connection"), Some("upgrade"));
    let answer = until(&mut client, b"\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert_eq!(header(&answer, "upgrade"), Some("echo"));
    (client, visit)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_direction_ends_alone() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let (mut client, mut visit) = tunnel(&front, &inside).await;
    client.write_all(b"ping").await.unwrap();
    assert_eq!(visit.exactly(4).await, b"ping");
    visit.say("pong").await;
    until(&mut client, b"pong").await;
    client.shutdown().await.unwrap();
    visit.ended().await;
    visit.say("still here").await;
    drop(visit);
    assert_eq!(rest(&mut client).await, b"still here");
    front.server.stop().await;
}

#[tokio::test]
async fn bytes_that_come_with_the_head_are_not_lost() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let mut client = front.connect().await;
    let request = format!("{}early", front.request("GET", "/ws", ASKS));
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut visit, _) = inside.serve_once(&format!("{AGREES}hello")).await;
    until(&mut client, b"\r\n\r\nhello").await;
    assert_eq!(visit.exactly(5).await, b"early");
    front.server.stop().await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let (answer, _visit) = tokio::join!(front.send("GET", "/", ASKS), inside.serve_once(refusal));
    assert_eq!((answer.status, answer.text()), (403, "no"));
    front.server.stop().await;
}

#[tokio::test]
async fn plain_http_2_is_not_tunnelled() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let asks =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    let (answer, (_visit, head)) =
        tokio::join!(front.send("GET", "/", asks), inside.serve_once(OK));
    assert_eq!(answer.text(), "ok");
    for name in ["upgrade", "connection", "http2-settings"] {
        assert_eq!(header(&head, name), None, "{head}");
    }
    front.server.stop().await;
}

#[tokio::test]
async fn a_tunnel_ends_with_its_sandbox() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let (mut client, mut visit) = tunnel(&front, &inside).await;
    front.destroy().await;
    assert_eq!(rest(&mut client).await, b"");
    visit.ended().await;
    front.server.stop().await;
}

#[tokio::test]
async fn a_tunnel_does_not_hold_up_the_servers_end() {
    let front = Front::with(|options| options.server.drain_timeout = TEST_TIMEOUT * 10).await;
    let inside = front.listen(PORT).await;
    let (mut client, mut visit) = tunnel(&front, &inside).await;
    tokio::time::timeout(TEST_TIMEOUT, front.server.stop())
        .await
        .unwrap();
    assert_eq!(rest(&mut client).await, b"");
    visit.ended().await;
}

#[tokio::test]
async fn a_silent_tunnel_ends() {
    let front = Front::with(|options| {
        options.server.preview.idle_timeout = IDLE_TIMEOUT;
    })
    .await;
    let inside = front.listen(PORT).await;
    let (mut client, mut visit) = tunnel(&front, &inside).await;
    assert_eq!(rest(&mut client).await, b"");
    visit.ended().await;
    front.server.stop().await;
}

#[tokio::test]
async fn tunnels_count_and_a_flood_of_them_leaves_others_alone() {
    let front = Front::with(|options| options.server.preview.max_connections = 5).await;
    let inside = front.listen(PORT).await;
    let mut tunnels = Vec::new();
    for _ in 0..5 {
        tunnels.push(tunnel(&front, &inside).await);
    }
    for _ in 0..20 {
        let answer = front.send("GET", "/ws", ASKS).await;
        answer.expect(503, "UNAVAILABLE");
    }
    let health = front
        .send("GET", "/api/v1/live", "Host: localhost\r\n")
        .await;
    assert_eq!(health.status, 200);
    // A tunnel that has ended makes room; its place is free when both ends are closed.
    let (mut client, visit) = tunnels.pop().unwrap();
    drop(visit);
    client.shutdown().await.unwrap();
    rest(&mut client).await;
    let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
    loop {
        let mut client = front.connect().await;
        let request = front.request("GET", "/ws", ASKS);
        client.write_all(request.as_bytes()).await.unwrap();
        let answering = async {
            let mut visit = inside.accept().await;
            visit.head().await;
            visit
                .say("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                .await;
            visit
        };
        tokio::select! {
            answer = read_answer(&mut client, false) => match answer.status {
                503 => assert!(tokio::time::Instant::now() < deadline, "no room is made"),
                _ => break,
            },
            _visit = answering => break,
        }
    }
    front.server.stop().await;
}
