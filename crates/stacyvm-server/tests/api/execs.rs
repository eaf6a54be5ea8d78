//! Detached commands: contract section 4, below `/execs`, over a real agent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::http::{Answer, TEST_TIMEOUT, get, post, send};
use crate::mock::{Mocked, eventually};
use crate::support::Server;

struct Exec<'a> {
    server: &'a Mocked,
    path: String,
}

impl Exec<'_> {
    async fn get(&self, rest: &str) -> Answer {
        get(self.server.address, &format!("{}{rest}", self.path)).await
    }

    async fn post(&self, rest: &str, body: Value) -> Answer {
        let path = format!("{}{rest}", self.path);
        post(self.server.address, &path, &body.to_string()).await
    }

    /// Every line of an attachment that ends.
    async fn lines(&self, query: &str) -> Vec<Value> {
        let answer = self.get(&format!("/attach{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        parse(&answer)
    }
}

fn parse(answer: &Answer) -> Vec<Value> {
    let lines = answer.text().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn detach(server: &Mocked, id: &str, request: Value) -> (String, Value) {
    let mut request = request;
    request["detach"] = json!(true);
    let base = format!("/api/v1/sandboxes/{id}");
    let answer = post(
        server.address,
        &format!("{base}/exec"),
        &request.to_string(),
    )
    .await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let info = answer.json();
    let exec_id = info["exec_id"].as_str().unwrap();
    (format!("{base}/execs/{exec_id}"), info)
}

fn text(lines: &[Value], stream: &str) -> String {
    let of_stream = lines.iter().filter(|line| line["stream"] == stream);
    of_stream
        .map(|line| line["data"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_detached_command_is_listed_replayed_and_waited_for() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let request = json!({"command": "echo out; echo err >&2; read go; echo é; exit 3"});
    let (path, info) = detach(&server, &id, request).await;
    assert_eq!(
        (&info["state"], &info["detached"]),
        (&json!("running"), &json!(true))
    );
    assert!(info["pid"].as_u64().unwrap() > 0, "{info}");
    let exec = Exec {
        server: &server,
        path,
    };
    let short = exec.get("/wait?timeout=1ms").await;
    assert_eq!(
        (short.status, &short.json()["state"]),
        (200, &json!("running"))
    );
    // Both of its streams were read before it says more.
    eventually("its first words are kept", async || {
        exec.get("").await.json()["log_end"] == 8
    })
    .await;
    exec.post("/stdin", json!({"data": "go\n"})).await;
    let ended = exec.get("/wait").await.json();
    assert_eq!(
        (&ended["state"], &ended["exit_code"]),
        (&json!("exited"), &json!(3))
    );
    assert_eq!(
        (&ended["reason"], &ended["log_end"]),
        (&json!("exit"), &json!(11))
    );
    let lines = exec.lines("").await;
    assert_eq!(text(&lines, "stdout"), "out\né\n");
    assert_eq!(text(&lines, "stderr"), "err\n");
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["stream"], &last["exit_code"]),
        (&json!("exit"), &json!(3))
    );
    // From any offset that a line carried, what follows it comes.
    for (at, line) in lines.iter().enumerate() {
        let Some(offset) = line["offset"].as_u64() else {
            continue;
        };
        let rest = exec.lines(&format!("?offset={offset}")).await;
        for stream in ["stdout", "stderr"] {
            assert_eq!(text(&rest, stream), text(&lines[at + 1..], stream));
        }
    }
    let exact = exec.lines("?encoding=base64&offset=8").await;
    let bytes = STANDARD
        .decode(exact[0]["data_b64"].as_str().unwrap())
        .unwrap();
    assert_eq!(bytes, "é\n".as_bytes());
    let all = get(server.address, &format!("/api/v1/sandboxes/{id}/execs")).await;
    assert_eq!(all.json(), json!([exec.get("").await.json()]));
    server.stop().await;
}

#[tokio::test]
async fn input_signals_and_sizes_reach_it() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let (path, _) = detach(&server, &id, json!({"command": "cat; echo end"})).await;
    let exec = Exec {
        server: &server,
        path,
    };
    let told = exec.post("/stdin", json!({"data": "one\n"})).await;
    assert_eq!(told.text(), "{\"status\":\"written\"}");
    exec.post("/stdin", json!({"data_b64": STANDARD.encode(b"two\n")}))
        .await;
    let header = "Content-Type: application/octet-stream\r\n";
    let raw = format!("{}/stdin?close=true", exec.path);
    let told = send(server.address, "POST", &raw, header, b"three\n").await;
    assert_eq!(told.status, 200, "{}", told.text());
    assert_eq!(exec.get("/wait").await.json()["exit_code"], 0);
    assert_eq!(
        text(&exec.lines("").await, "stdout"),
        "one\ntwo\nthree\nend\n"
    );
    exec.post("/stdin", json!({"data": "late"}))
        .await
        .expect(409, "CONFLICT");
    exec.post("/signal", json!({"signal": "INT"}))
        .await
        .expect(409, "CONFLICT");

    let request = json!({"command": "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.02; done"});
    let (path, _) = detach(&server, &id, request).await;
    let exec = Exec {
        server: &server,
        path,
    };
    eventually("it is ready", async || {
        text(&exec.lines("?follow=false").await, "stdout") == "ready\n"
    })
    .await;
    let told = exec.post("/signal", json!({"signal": "SIGTERM"})).await;
    assert_eq!(told.text(), "{\"status\":\"signalled\"}");
    assert_eq!(exec.get("/wait").await.json()["exit_code"], 9);

    let (path, _) = detach(&server, &id, json!({"command": "sleep 600 & sleep 600"})).await;
    let exec = Exec {
        server: &server,
        path,
    };
    for _ in 0..2 {
        let killed = send(server.address, "DELETE", &exec.path, "", b"").await;
        assert_eq!(killed.text(), "{\"status\":\"killed\"}");
        let ended = exec.get("/wait").await.json();
        assert_eq!(
            (&ended["exit_code"], &ended["reason"]),
            (&json!(137), &json!("signal"))
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let (path, _) = detach(&server, &id, json!({"command": "sleep 600"})).await;
    let exec = Exec {
        server: &server,
        path,
    };
    exec.get("/attach?offset=-1")
        .await
        .expect(400, "BAD_REQUEST");
    exec.get("/attach?encoding=latin1")
        .await
        .expect(400, "BAD_REQUEST");
    exec.get("/attach?follow=perhaps")
        .await
        .expect(400, "BAD_REQUEST");
    exec.get("/wait?timeout=10")
        .await
        .expect(400, "BAD_REQUEST");
    exec.get("/wait?timeout=-1s")
        .await
        .expect(400, "BAD_REQUEST");
    exec.post("/signal", json!({"signal": "NOPE"}))
        .await
        .expect(400, "BAD_REQUEST");
    exec.post("/signal", json!({}))
        .await
        .expect(400, "BAD_REQUEST");
    exec.post("/resize", json!({"cols": 0, "rows": 1}))
        .await
        .expect(400, "BAD_REQUEST");
    exec.post("/stdin", json!({"data_b64": "%"}))
        .await
        .expect(400, "BAD_REQUEST");
    exec.post("/stdin", json!({"data": "", "data_b64": ""}))
        .await
        .expect(400, "BAD_REQUEST");
    let base = format!("/api/v1/sandboxes/{id}");
    for name in ["ex-99", "99", "ex-", "ex-01"] {
        for rest in ["", "/attach", "/wait"] {
            let path = format!("{base}/execs/{name}{rest}");
            get(server.address, &path).await.expect(404, "NOT_FOUND");
        }
    }
    let path = format!("{base}/exec");
    let wrong = post(server.address, &path, "{\"command\":\" \",\"detach\":true}").await;
    wrong.expect(400, "BAD_REQUEST");
    let long = json!({"command": "cat", "detach": true, "stdin": "x".repeat(64 * 1024 + 1)});
    let refused = post(server.address, &path, &long.to_string()).await;
    refused.expect(400, "BAD_REQUEST");
    let unknown = "/api/v1/sandboxes/sb-00000000/execs";
    get(server.address, unknown).await.expect(404, "NOT_FOUND");
    server.stop().await;

    // A backend without an agent of ours says what it lacks.
    let server = Server::plain().await;
    let made = post(server.address, "/api/v1/sandboxes", "{}").await.json();
    let base = format!("/api/v1/sandboxes/{}", made["id"].as_str().unwrap());
    let refused = get(server.address, &format!("{base}/execs")).await;
    refused.expect(422, "UNSUPPORTED");
    assert!(
        refused.text().contains("detached-exec"),
        "{}",
        refused.text()
    );
    server.stop().await;
}

#[tokio::test]
async fn input_that_came_with_the_request_is_there_at_once_and_ends() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let text = "word ".repeat(13_000);
    let request = json!({"command": "sleep 0.2; wc -c", "stdin": text});
    let (path, _) = detach(&server, &id, request).await;
    let exec = Exec {
        server: &server,
        path,
    };
    // All input has been handed over already: more is refused at once.
    exec.post("/stdin", json!({"data": "more"}))
        .await
        .expect(409, "CONFLICT");
    assert_eq!(text_of(&exec.lines("").await), "65000");
    server.stop().await;
}

fn text_of(lines: &[Value]) -> String {
    text(lines, "stdout").trim().to_owned()
}

#[tokio::test]
async fn a_stream_of_a_detached_command_may_break_and_the_command_lives() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let body = json!({"command": "echo begun; read line; echo \"heard $line\"", "detach": true, "stream": true});
    let path = format!("/api/v1/sandboxes/{id}/exec");
    let mut stream = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes())
        .await
        .unwrap();
    let (status, headers, _) = crate::http::read_head(&mut stream).await;
    assert_eq!(status, 200);
    let exec_id = headers.iter().find(|(name, _)| name == "x-exec-id");
    let path = format!("/api/v1/sandboxes/{id}/execs/{}", exec_id.unwrap().1);
    drop(stream);
    let exec = Exec {
        server: &server,
        path,
    };
    exec.post("/stdin", json!({"data": "me\n"})).await;
    let lines = exec.lines("").await;
    assert_eq!(text(&lines, "stdout"), "begun\nheard me\n");
    server.stop().await;
}

#[tokio::test]
async fn who_follows_hears_when_the_sandbox_is_destroyed() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let (path, _) = detach(&server, &id, json!({"command": "echo up; sleep 600"})).await;
    let exec = Exec {
        server: &server,
        path,
    };
    eventually("it is up", async || {
        text(&exec.lines("?follow=false").await, "stdout") == "up\n"
    })
    .await;
    let path = format!("{}/attach", exec.path);
    let (answer, destroyed) = tokio::join!(
        tokio::time::timeout(TEST_TIMEOUT, get(server.address, &path)),
        server.client.destroy(&id),
    );
    destroyed.unwrap();
    let answer = answer.expect("the follower hears no end");
    // Either request may reach the server first.
    if answer.status == 200 {
        let last = parse(&answer).pop().unwrap();
        assert_eq!(last["reason"], "sandbox_destroyed", "{last}");
    } else {
        answer.expect(404, "NOT_FOUND");
    }
    server.stop().await;
}
