//! Spans on their way to a collector: a real server, and a collector that this test plays.
//! `cargo test -p stacyvm --features otlp --test otlp`
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Generous: it only decides how long a failing test takes.
const SOON: Duration = Duration::from_secs(60);

/// Reads one request, answers 200, and gives back its first line and its body.
fn serve_one(stream: TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut stream = stream;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    (first, body)
}

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|part| part == text.as_bytes())
}

#[test]
fn spans_of_requests_reach_the_collector_before_the_server_ends() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let (sender, arrived) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in collector.incoming() {
            if sender.send(serve_one(stream.unwrap())).is_err() {
                return;
            }
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("stacyvm.yaml");
    let text = format!(
        "server:\n  host: 127.0.0.1\n  port: 0\n  data_dir: {}\nproviders:\n  default: mock\n  native:\n    enabled: false\n  mock:\n    enabled: true\nlogging:\n  level: error\ntelemetry:\n  otlp_endpoint: {endpoint}\n",
        directory.path().join("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_stacyvm"))
        .arg("--config")
        .arg(&config)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .split("http://")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .unwrap_or_else(|| panic!("no address in {line:?}"));
    let mut request = TcpStream::connect(address).unwrap();
    request
        .write_all(
            b"POST /api/v1/sandboxes/sb-00000000/exec HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: trace-otlp-1\r\nConnection: close\r\nContent-Length: 17\r\n\r\n{\"command\":\"true\"",
        )
        .unwrap();
    request.write_all(b"}").unwrap();
    let mut answer = String::new();
    let _ = request.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    // The batch waits for seconds; the end of the server does not.
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
    let mut missing = vec!["stacyvm", "request", "trace-otlp-1", "request_id"];
    while !missing.is_empty() {
        let (first, body) = arrived
            .recv_timeout(SOON)
            .unwrap_or_else(|_| panic!("no {missing:?}"));
        assert!(first.starts_with("POST /v1/traces HTTP/1.1"), "{first}");
        missing.retain(|text| !contains(&body, text));
    }
}
