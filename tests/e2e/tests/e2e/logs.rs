//! The server's own log, as an operator greps it.

use serde_json::{Value, json};

use crate::harness::{Options, SOON, Server, eventually, http};

/// A request with an id of its own.
#[track_caller]
fn traced(server: &Server, id: &str, method: &str, path: &str, body: &Value) -> Value {
    let headers = [("X-Request-ID", id), ("Content-Type", "application/json")];
    let path = format!("/api/v1{path}");
    let body = body.to_string();
    let answer = http::request(server.address(), method, &path, &headers, body.as_bytes()).unwrap();
    assert!(answer.status < 300, "{path}: {}", answer.text());
    answer.json()
}

/// Spawns, runs, extends and destroys, each under an id of its own, and gives back the sandbox.
fn a_life(server: &Server) -> String {
    let made = traced(server, "trace-spawn", "POST", "/sandboxes", &json!({}));
    let id = made["id"].as_str().unwrap().to_owned();
    let at = format!("/sandboxes/{id}");
    let command = json!({"command": "cat", "stdin": "some words"});
    traced(
        server,
        "trace-exec",
        "POST",
        &format!("{at}/exec"),
        &command,
    );
    let ttl = json!({"ttl": "5m"});
    traced(
        server,
        "trace-extend",
        "POST",
        &format!("{at}/extend"),
        &ttl,
    );
    traced(server, "trace-destroy", "DELETE", &at, &json!(null));
    id
}

/// Everything that the owner of the sandbox logged, each line with its words.
#[track_caller]
fn lines_about<'a>(log: &'a str, words: &str, id: &str) -> Vec<&'a str> {
    let lines = log.lines();
    let found: Vec<&str> = lines
        .filter(|line| line.contains(words) && line.contains(id))
        .collect();
    assert!(!found.is_empty(), "no line {words:?} about {id} in:\n{log}");
    found
}

fn server_with(format: &str) -> Server {
    Server::with(Options {
        more: format!("logging:\n  level: debug\n  format: {format}\n"),
        ..Options::default()
    })
}

#[test]
fn every_line_of_a_request_carries_its_id_in_json() {
    let server = server_with("json");
    let id = a_life(&server);
    let log = server.log();
    let lines: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    // What the sandbox's own task said belongs to the request that told it to.
    for (words, request) in [
        ("sandbox runs", "trace-spawn"),
        ("sandbox destroyed", "trace-destroy"),
    ] {
        let mut about = lines
            .iter()
            .filter(|line| line["message"] == words && line["sandbox"] == id.as_str());
        let line = about.next().unwrap_or_else(|| panic!("{words}: {log}"));
        assert_eq!(line["span"]["request_id"], request, "{line}");
        assert!(about.next().is_none(), "{words} twice");
    }
    for request in ["trace-spawn", "trace-exec", "trace-extend", "trace-destroy"] {
        let answered = lines.iter().filter(|line| {
            line["message"] == "request answered" && line["span"]["request_id"] == request
        });
        assert_eq!(answered.count(), 1, "{request}: {log}");
    }
    // And whatever else was said about the sandbox while it lived: it did nothing by itself.
    for line in lines.iter().filter(|line| line["sandbox"] == id.as_str()) {
        assert!(line["span"]["request_id"].is_string(), "{line}");
    }
}

#[test]
fn every_line_of_a_request_carries_its_id_in_pretty() {
    let server = server_with("pretty");
    let id = a_life(&server);
    let log = server.log();
    for (words, request) in [
        ("sandbox runs", "request_id=\"trace-spawn\""),
        ("sandbox destroyed", "request_id=\"trace-destroy\""),
    ] {
        for line in lines_about(&log, words, &id) {
            assert!(line.contains(request), "{line}");
        }
    }
}

#[test]
fn what_a_sandbox_does_of_its_own_accord_belongs_to_no_request() {
    let server = server_with("json");
    let made = traced(
        &server,
        "trace-brief",
        "POST",
        "/sandboxes",
        &json!({"ttl": "1s"}),
    );
    let id = made["id"].as_str().unwrap();
    eventually("it expires", SOON, || {
        let log = server.log();
        log.contains("sandbox destroyed")
    });
    let log = server.log();
    for line in lines_about(&log, "sandbox destroyed", id) {
        assert!(!line.contains("trace-brief"), "{line}");
    }
}
