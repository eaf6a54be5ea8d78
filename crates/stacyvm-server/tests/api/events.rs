//! GET `/events`: contract section 7.

use std::time::Duration;

use stacyvm_client::{EventStream, ServerEvent};
use stacyvm_types::EventsQuery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::{TEST_TIMEOUT, connect_narrow, get, read_head, send};
use crate::support::{Options, Server};

async fn next(stream: &mut EventStream) -> ServerEvent {
    let next = tokio::time::timeout(TEST_TIMEOUT, stream.next()).await;
    next.expect("an event in time")
        .expect("the stream goes on")
        .unwrap()
}

fn everything() -> EventsQuery {
    EventsQuery {
        last_event_id: Some("evt-0".to_owned()),
        ..EventsQuery::default()
    }
}

async fn follow(server: &Server, query: &EventsQuery) -> EventStream {
    server.client.events(query).await.unwrap()
}

async fn spawn(server: &Server) -> String {
    server
        .client
        .spawn(&Default::default())
        .await
        .unwrap()
        .id
        .to_string()
}

/// Makes so many events of one file.
async fn reads(server: &Server, id: &str, count: usize) {
    let caller = Default::default();
    let id = id.parse().unwrap();
    let sandbox = server.orchestrator.sandbox(&caller, &id).await.unwrap();
    for _ in 0..count {
        sandbox.read("/x", Default::default()).await.unwrap();
    }
}

#[tokio::test]
async fn the_wire_is_the_contracts() {
    let mut options = Options::default();
    options.server.event_heartbeat = Duration::from_millis(20);
    let server = Server::start(options).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let (status, headers, mut body) = read_head(&mut stream).await;
    assert_eq!(status, 200);
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
    ] {
        let found = headers.iter().find(|(key, _)| key == name);
        assert_eq!(found.map(|(_, value)| value.as_str()), Some(value));
    }
    // The head has come, so whatever happens from now on is heard.
    let id = spawn(&server).await;
    let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
    let text = loop {
        let text = String::from_utf8(body.clone()).unwrap();
        if text.contains("sandbox.running") && text.matches(": heartbeat\n\n").count() >= 2 {
            break text;
        }
        let reading = tokio::time::timeout_at(deadline, stream.read_buf(&mut body));
        assert!(reading.await.unwrap().unwrap() > 0);
    };
    let at = text.find("id: evt-").unwrap();
    let block = text[at..].split("\n\n").next().unwrap();
    let (id_line, data) = block.split_once('\n').unwrap();
    let event = id_line.strip_prefix("id: ").unwrap();
    let begin = format!(
        "data: {{\"id\":\"{event}\",\"type\":\"sandbox.created\",\"sandbox_id\":\"{id}\",\"timestamp\":\""
    );
    assert!(data.starts_with(&begin), "{data}");
    assert!(
        data.ends_with("Z\",\"data\":{\"provider\":\"fake\",\"image\":\"nothing\"}}"),
        "{data}"
    );
    assert!(!text.contains("event:") && !text.contains("retry:"));
    server.stop().await;
}

#[tokio::test]
async fn who_comes_back_misses_nothing() {
    let server = Server::plain().await;
    let id = spawn(&server).await;
    let mut first = follow(&server, &everything()).await;
    assert_eq!(next(&mut first).await.kind, "sandbox.created");
    let seen = next(&mut first).await;
    assert_eq!(seen.kind, "sandbox.running");
    drop(first);
    reads(&server, &id, 500).await;
    let mut query = EventsQuery {
        last_event_id: Some(seen.id.clone()),
        ..EventsQuery::default()
    };
    let number = |event: &ServerEvent| event.id[4..].parse::<u64>().unwrap();
    let mut second = follow(&server, &query).await;
    let mut last = number(&seen);
    for _ in 0..500 {
        let event = next(&mut second).await;
        assert_eq!(
            (event.kind.as_str(), number(&event)),
            ("file.read", last + 1)
        );
        last += 1;
    }
    // As a browser does it that cannot set headers at first.
    query.last_event_id = None;
    let path = format!("/api/v1/events?last_event_id=evt-{}", last - 1);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (_, _, mut body) = read_head(&mut stream).await;
    while !String::from_utf8_lossy(&body).contains("\n\n") {
        assert!(stream.read_buf(&mut body).await.unwrap() > 0);
    }
    let text = String::from_utf8(body).unwrap();
    assert!(text.contains(&format!("id: evt-{last}\n")), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn ten_thousand_events_and_one_that_does_not_read() {
    let mut options = Options::default();
    options.orchestrator.event_history = 100;
    let server = Server::start(options).await;
    let id = spawn(&server).await;
    let mut quick = follow(&server, &EventsQuery::default()).await;
    let mut stalled = connect_narrow(server.address).await;
    stalled
        .write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let (_, _, rest) = read_head(&mut stalled).await;
    // Names so long that no socket buffer holds them all.
    let caller = Default::default();
    let id = id.parse().unwrap();
    let sandbox = server.orchestrator.sandbox(&caller, &id).await.unwrap();
    let name = format!("/{}", "x".repeat(4000));
    for number in 0..10_000_u32 {
        sandbox.read(&name, Default::default()).await.unwrap();
        // The quick one reads as fast as they come.
        if number % 50 == 49 {
            for _ in 0..50 {
                assert_eq!(next(&mut quick).await.kind, "file.read");
            }
        }
    }
    let (mut heard, mut missed, mut text) = (0, 0, String::from_utf8(rest).unwrap());
    while heard + missed < 10_000 {
        let mut bytes = vec![0; 1 << 16];
        let reading = tokio::time::timeout(TEST_TIMEOUT, stalled.read(&mut bytes));
        let count = reading.await.unwrap().unwrap();
        assert!(count > 0);
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        while let Some(end) = text.find("\n\n") {
            let block: String = text.drain(..end + 2).collect();
            if block.contains("\"type\":\"file.read\"") {
                heard += 1;
            } else if let Some(at) = block.find("\"count\":") {
                assert!(block.contains("\"type\":\"events.lost\""), "{block}");
                assert!(block.contains("\"reason\":\"slow\""), "{block}");
                let digits = block[at + 8..].split('}').next().unwrap();
                missed += digits.parse::<u64>().unwrap();
            }
        }
    }
    assert_eq!(heard + missed, 10_000);
    assert!(missed > 1000, "the sockets held {heard}");
    server.stop().await;
}

#[tokio::test]
async fn filters_narrow_and_wrong_ones_are_refused() {
    let server = Server::plain().await;
    let (one, two) = (spawn(&server).await, spawn(&server).await);
    reads(&server, &one, 1).await;
    reads(&server, &two, 1).await;
    server.client.destroy(&two).await.unwrap();
    let mut query = EventsQuery {
        types: vec!["file.*".to_owned(), "sandbox.destroyed".to_owned()],
        ..everything()
    };
    let mut both = follow(&server, &query).await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(next(&mut both).await.kind);
    }
    assert_eq!(kinds, ["file.read", "file.read", "sandbox.destroyed"]);
    query.sandbox_id = Some(two.clone());
    let mut only = follow(&server, &query).await;
    let event = next(&mut only).await;
    assert_eq!(
        (event.kind.as_str(), event.sandbox_id),
        ("file.read", Some(two))
    );
    assert_eq!(next(&mut only).await.kind, "sandbox.destroyed");
    for wrong in [
        "type=sandbox",
        "type=sandbox.*,nothing",
        "type=exec.started&type=x.*",
        "sandbox_id=x",
        "sandbox_id=sb-00000001&sandbox_id=sb-00000002",
        "last_event_id=7",
    ] {
        let answer = get(server.address, &format!("/api/v1/events?{wrong}")).await;
        answer.expect(400, "BAD_REQUEST");
    }
    let headers = "Last-Event-ID: nonsense\r\n";
    let answer = send(server.address, "GET", "/api/v1/events", headers, b"").await;
    answer.expect(400, "BAD_REQUEST");
    server.stop().await;
}

#[tokio::test]
async fn in_pool_mode_owners_hear_their_own() {
    let mut options = Options::default();
    options.orchestrator.pool_mode = true;
    let server = Server::start(options).await;
    let url = format!("http://{}", server.address);
    let client = |name| stacyvm_client::Client::new(&url, None, Some(name)).unwrap();
    let (ann, bob) = (client("ann"), client("bob"));
    let bobs = bob.spawn(&Default::default()).await.unwrap();
    let anns = ann.spawn(&Default::default()).await.unwrap();
    let mut heard = ann.events(&everything()).await.unwrap();
    for kind in ["sandbox.created", "sandbox.running"] {
        let event = next(&mut heard).await;
        assert_eq!(event.sandbox_id.as_deref(), Some(anns.id.as_str()));
        assert_eq!(event.kind, kind);
    }
    let mut all = follow(&server, &everything()).await;
    let first = next(&mut all).await;
    assert_eq!(first.sandbox_id.as_deref(), Some(bobs.id.as_str()));
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_the_stream_cleanly_and_at_once() {
    let mut options = Options::default();
    // Waiting for the drain would outlast the patience.
    options.server.drain_timeout = Duration::from_secs(3600);
    let server = Server::start(options).await;
    let mut stream = follow(&server, &EventsQuery::default()).await;
    let stopping = tokio::spawn(server.stop());
    let end = tokio::time::timeout(TEST_TIMEOUT, stream.next())
        .await
        .unwrap();
    assert!(end.is_none(), "{end:?}");
    tokio::time::timeout(TEST_TIMEOUT, stopping)
        .await
        .unwrap()
        .unwrap();
}
