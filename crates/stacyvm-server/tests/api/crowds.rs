//! Many connections at once: of one address, and of the API beside previews.

use std::net::{Ipv4Addr, SocketAddr};

use stacyvm_orchestrator::Caller;
use stacyvm_types::SpawnRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::http::{Answer, TEST_TIMEOUT, read_answer};
use crate::support::{Options, Server};

const HEALTH: &str = "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A connection from an address of the loopback network.
async fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from = (Ipv4Addr::new(127, 0, 0, last), 0).into();
    socket.bind(from).unwrap();
    socket.connect(to).await.unwrap()
}

async fn ask(stream: &mut TcpStream, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    read_answer(stream, false).await
}

/// Whether a connection is served, and not ended without a word.
async fn is_served(stream: &mut TcpStream) -> bool {
    if stream.write_all(HEALTH.as_bytes()).await.is_err() {
        return false;
    }
    let mut first = [0; 1];
    let reading = timeout(TEST_TIMEOUT, stream.read(&mut first)).await;
    matches!(reading.unwrap(), Ok(1))
}

/// Waits until a new connection is served.
async fn eventually_served(from: u8, to: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        let mut stream = connect_from(from, to).await;
        if is_served(&mut stream).await {
            return stream;
        }
        assert!(Instant::now() < deadline, "no place was given back");
    }
}

#[tokio::test]
async fn one_address_has_its_share_of_connections_and_no_more() {
    let mut options = Options::default();
    options.server.connections.per_address = 3;
    let server = Server::start(options).await;
    let at = server.address;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = connect_from(2, at).await;
        assert!(is_served(&mut stream).await);
        open.push(stream);
    }
    for _ in 0..5 {
        assert!(!is_served(&mut connect_from(2, at).await).await);
    }
    let mut other = connect_from(3, at).await;
    assert_eq!(ask(&mut other, HEALTH).await.status, 200);
    open.pop();
    open.push(eventually_served(2, at).await);
    assert!(!is_served(&mut connect_from(2, at).await).await);
    drop((open, other));
    server.stop().await;
}

#[tokio::test]
async fn a_trusted_proxy_brings_as_many_as_it_likes() {
    let mut options = Options::default();
    options.server.connections.per_address = 2;
    options.server.trusted_proxies = vec!["127.0.0.2".parse().unwrap()];
    let server = Server::start(options).await;
    let at = server.address;
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut stream = connect_from(2, at).await;
        assert!(is_served(&mut stream).await);
        open.push(stream);
    }
    drop(open);
    server.stop().await;
}

#[tokio::test]
async fn visitors_of_previews_leave_the_seats_of_the_api_free_and_the_other_way_round() {
    let mut options = Options::default();
    options.server.connections.api = 2;
    options.server.connections.previews = 3;
    options.server.preview.wait = std::time::Duration::ZERO;
    let server = Server::start(options).await;
    let at = server.address;
    let (caller, request) = (Caller::default(), SpawnRequest::default());
    let sandbox = server.orchestrator.spawn(&caller, request, None).await;
    let id = sandbox.unwrap().id;
    // Nothing listens there, which is said by the preview all the same.
    let visit = format!("GET / HTTP/1.1\r\nHost: 3000-{id}.localhost\r\n\r\n");
    let is_preview = |answer: &Answer| answer.header("x-stacyvm-preview-error").is_some();
    let connect = async || TcpStream::connect(at).await.unwrap();

    let mut visitors = Vec::new();
    for _ in 0..3 {
        let mut stream = connect().await;
        // A connection needs its seat once.
        for _ in 0..3 {
            assert!(is_preview(&ask(&mut stream, &visit).await));
        }
        visitors.push(stream);
    }
    let refused = ask(&mut connect().await, &visit).await;
    refused.expect(503, "UNAVAILABLE");
    assert!(!is_preview(&refused));
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(refused.header("x-request-id").is_some());

    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut stream = connect().await;
        assert_eq!(ask(&mut stream, HEALTH).await.status, 200);
        clients.push(stream);
    }
    let refused = ask(&mut connect().await, HEALTH).await;
    refused.expect(503, "UNAVAILABLE");
    // A visitor does not get at a seat of the API either.
    let refused = ask(visitors.last_mut().unwrap(), HEALTH).await;
    refused.expect(503, "UNAVAILABLE");
    // A client that leaves makes room for another.
    clients.pop();
    let deadline = Instant::now() + TEST_TIMEOUT;
    while ask(&mut connect().await, HEALTH).await.status != 200 {
        assert!(Instant::now() < deadline, "no seat was given back");
    }
    drop((visitors, clients));
    server.stop().await;
}
