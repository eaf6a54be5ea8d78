//! Watching a server from the command line.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::harness::server::bare_command;
use crate::harness::{SOON, Server};

/// A command of the command line that goes on printing; it ends with this value.
pub(crate) struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// The next line; none at the end.
    fn line(&self) -> Option<String> {
        use std::sync::mpsc::RecvTimeoutError::Timeout;
        match self.lines.recv_timeout(SOON) {
            Ok(line) => Some(line),
            Err(Timeout) => panic!("no line within {SOON:?}"),
            Err(_) => None,
        }
    }

    /// Reads on to a line that holds all of these.
    #[track_caller]
    pub(crate) fn until(&self, words: &[&str]) -> String {
        loop {
            let line = self.line().expect("it goes on");
            if words.iter().all(|word| line.contains(word)) {
                return line;
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_are_shown_as_they_happen() {
    let server = Server::start();
    let table = Watching::start(server.command(&["events", "--replay"]));
    let id = server.spawn(json!({"env": {"KEY": "s3cret"}}));
    table.until(&["sandbox.running", &id]);
    server.exec(&id, "echo s3cret; exit 3");
    let line = table.until(&["exec.completed", &id]);
    assert!(line.contains("exit_code=3"), "{line}");

    let only = ["events", "--replay", "--output", "json", "--sandbox", &id];
    let types = ["--type", "sandbox.*", "--type", "exec.started"];
    let json = Watching::start(server.command(&[&only[..], &types].concat()));
    let kinds: Vec<String> = (0..3)
        .map(|_| {
            let line = json.line().unwrap();
            assert!(!line.contains("s3cret"), "{line}");
            let event: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(event["sandbox_id"], id.as_str());
            event["type"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(
        kinds,
        ["sandbox.created", "sandbox.running", "exec.started"]
    );
    server.cli(&["kill", &id]).ok();
    table.until(&["sandbox.destroyed", &id]);
    json.until(&["sandbox.destroyed", &id]);

    let wrong = server.cli(&["events", "--type", "nonsense"]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stderr.contains("nonsense"), "{}", wrong.stderr);
}

#[test]
fn a_log_is_followed_until_its_sandbox_ends() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    server.exec(&id, "seq 1 5");
    let mut log = Watching::start(server.command(&["logs", "-f", "-n", "2", &id]));
    assert_eq!(log.line().as_deref(), Some("4"));
    assert_eq!(log.line().as_deref(), Some("5"));
    server.exec(&id, "echo later");
    assert_eq!(log.line().as_deref(), Some("later"));
    server.cli(&["kill", &id]).ok();
    assert_eq!(log.line(), None);
    assert!(log.child.wait().unwrap().success());
}

/// Takes one request, says these events, and closes. The request's head.
fn answer_once(listener: &TcpListener, events: &[u64]) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0);
    }
    let mut text =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_owned();
    for id in events {
        let block = format!(
            "id: evt-{id}\ndata: {{\"id\":\"evt-{id}\",\"type\":\"new.type\",\"timestamp\":\"t\"}}\n\n"
        );
        text.push_str(&format!("{:x}\r\n{block}\r\n", block.len()));
    }
    // No last chunk: the connection breaks.
    stream.write_all(text.as_bytes()).unwrap();
    head.to_ascii_lowercase()
}

#[test]
fn a_broken_connection_is_taken_up_after_the_last_event() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let home = tempfile::tempdir().unwrap();
    let mut command = bare_command(home.path());
    command.args(["--server", &address, "events", "--output", "json"]);
    let watching = Watching::start(command);
    let first = answer_once(&listener, &[4, 5]);
    assert!(!first.contains("last-event-id"), "{first}");
    let second = answer_once(&listener, &[6]);
    assert!(second.contains("last-event-id: evt-5\r\n"), "{second}");
    for id in [4, 5, 6] {
        let line = watching.line().unwrap();
        assert!(line.contains(&format!("\"evt-{id}\"")), "{line}");
        assert!(line.contains("new.type"), "{line}");
    }
}
