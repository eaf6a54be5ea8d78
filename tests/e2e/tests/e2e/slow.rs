//! Three minutes without a word: no hidden timeout may end what nobody asked to end. These tests
//! sleep; they cost time and nothing else.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::Server;

/// Longer than any timeout that somebody could have thought of as long enough.
const SILENCE: Duration = Duration::from_secs(180);

#[test]
fn slow_a_command_that_says_nothing_for_three_minutes_is_answered() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let start = Instant::now();
    let command = format!("sleep {}; echo done; exit 7", SILENCE.as_secs());
    let answer = server
        .exec_with(&id, json!({"command": command}))
        .expect(200);
    assert!(start.elapsed() >= SILENCE, "{answer}");
    assert_eq!(answer["stdout"], "done\n");
    assert_eq!(answer["exit_code"], 7);
}

#[test]
fn slow_a_stream_that_says_nothing_for_three_minutes_completes() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let command = format!("echo up; sleep {}; echo done; exit 7", SILENCE.as_secs());
    let request = json!({"command": command, "stream": true});
    let path = format!("/sandboxes/{id}/exec");
    let mut stream = server.open("POST", &path, Some(request));
    assert_eq!(stream.status, 200);
    assert_eq!(stream.line().unwrap().unwrap()["data"], "up\n");
    let start = Instant::now();
    // Nothing in between: a heartbeat would be a line that is no output.
    assert_eq!(stream.line().unwrap().unwrap()["data"], "done\n");
    assert!(start.elapsed() > SILENCE - Duration::from_secs(10));
    let last = stream.line().unwrap().unwrap();
    assert_eq!(
        (&last["stream"], &last["exit_code"]),
        (&json!("exit"), &json!(7))
    );
    assert!(stream.line().unwrap().is_none());
}
