//! Three minutes without a byte: no hidden timeout may end what no client asked to end. These tests
//! sleep; they cost time and nothing else.

mod distribution;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::Server;

/// Longer than any timeout that could have been taken for long enough.
const IDLE_DURATION: Duration = Duration::from_secs(180);

#[test]
fn slow_a_command_that_says_nothing_for_three_minutes_is_answered() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let start = Instant::now();
    let command = format!("sleep {}; echo done; exit 7", IDLE_DURATION.as_secs());
    let answer = server
        .exec_with(&id, json!({"command": command}))
        .expect(200);
    assert!(start.elapsed() >= IDLE_DURATION, "{answer}");
    assert_eq!(answer["stdout"], "done\n");
    assert_eq!(answer["exit_code"], 7);
}

#[test]
fn slow_a_stream_that_says_nothing_for_three_minutes_completes() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let command = format!(
        "echo up; sleep {}; echo done; exit 7",
        IDLE_DURATION.as_secs()
    );
    let request = json!({"command": command, "stream": true});
    let path = format!("/sandboxes/{id}/exec");
    let start = Instant::now();
    let mut stream = server.open("POST", &path, Some(request));
    assert_eq!(stream.status, 200);
    assert_eq!(stream.line().unwrap().unwrap()["data"], "up\n");
    // Nothing in between: a heartbeat would be a line that is no output.
    assert_eq!(stream.line().unwrap().unwrap()["data"], "done\n");
    assert!(start.elapsed() >= IDLE_DURATION);
    let last = stream.line().unwrap().unwrap();
    assert_eq!(
        (&last["stream"], &last["exit_code"]),
        (&json!("exit"), &json!(7))
    );
    assert!(stream.line().unwrap().is_none());
}

#[test]
fn slow_a_feed_of_events_stays_open_through_three_minutes_of_nothing() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let mut stream = TcpStream::connect(server.address()).unwrap();
    // Over one connection: a client that comes back would hide one that was closed.
    let path = format!("/api/v1/events?type=exec.*&sandbox_id={id}");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let (start, mut beats, mut asked) = (Instant::now(), 0, false);
    let event = loop {
        let line = lines.next().expect("the feed was closed");
        // A heartbeat is a comment: no event, and enough for whatever counts silence on the way.
        if line.starts_with(':') {
            beats += 1;
        }
        if !asked && start.elapsed() >= IDLE_DURATION {
            asked = true;
            server.exec(&id, "true");
        }
        if let Some(event) = line.strip_prefix("data: ") {
            break serde_json::from_str::<serde_json::Value>(event).unwrap();
        }
    };
    assert!(asked, "an event came out of nothing: {event}");
    assert_eq!(event["type"], "exec.started");
    assert!(beats >= 10, "{beats} heartbeats");
}
