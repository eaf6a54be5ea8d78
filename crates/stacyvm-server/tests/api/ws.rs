//! Commands over a WebSocket: contract section 4, both dialects.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use stacyvm_types::SpawnRequest;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::http::{TEST_TIMEOUT, connect_narrow, get, send};
use crate::mock::{Mocked, eventually};
use crate::support::{Options, Server};

/// A client like a browser's: text frames, and nothing read ahead of the test.
struct Socket(WebSocketStream<TcpStream>);

async fn try_open(
    address: SocketAddr,
    id: &str,
    headers: &[(&'static str, &str)],
) -> Result<Socket, Error> {
    try_path(address, &format!("{id}/exec/ws"), headers).await
}

async fn try_path(
    address: SocketAddr,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Socket, Error> {
    let stream = connect_narrow(address).await;
    let url = format!("ws://{address}/api/v1/sandboxes/{path}");
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    client_async(request, stream)
        .await
        .map(|(stream, _)| Socket(stream))
}

impl Socket {
    async fn open(address: SocketAddr, id: &str) -> Self {
        try_open(address, id, &[]).await.unwrap()
    }

    async fn start(address: SocketAddr, id: &str, first: Value) -> Self {
        let mut socket = Self::open(address, id).await;
        socket.say(first).await;
        socket
    }

    async fn say(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// The next frame of text; none at the close, whose code is kept.
    async fn hear(&mut self) -> Result<Value, Option<CloseFrame>> {
        loop {
            let next = tokio::time::timeout(TEST_TIMEOUT, self.0.next()).await;
            match next.expect("the server says nothing") {
                Some(Ok(Message::Text(text))) => {
                    return Ok(serde_json::from_str(text.as_str()).unwrap());
                }
                Some(Ok(Message::Close(frame))) => {
                    // Our own close, which the server waits for, is still to be written.
                    let _ = self.0.flush().await;
                    return Err(frame);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => panic!("the connection broke: {error}"),
                None => return Err(None),
            }
        }
    }

    /// Every frame up to the close, and its code.
    async fn rest(&mut self) -> (Vec<Value>, u16) {
        let mut frames = Vec::new();
        loop {
            match self.hear().await {
                Ok(frame) => frames.push(frame),
                Err(close) => {
                    return (frames, close.map_or(1005, |frame| frame.code.into()));
                }
            }
        }
    }

    /// Reads on until what was printed contains `text`.
    async fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let frame = self.hear().await.unwrap_or_else(|_| panic!("{seen:?}"));
            assert_ne!(frame["type"], "exit", "{seen:?}");
            seen.push_str(frame["data"].as_str().unwrap_or_default());
        }
        seen
    }
}

fn printed(frames: &[Value], stream: &str) -> String {
    let of = |frame: &&Value| frame["type"] == stream || frame["stream"] == stream;
    let data = |frame: &Value| frame["data"].as_str().unwrap().to_owned();
    frames.iter().filter(of).map(data).collect()
}

async fn spawn(server: &Server) -> String {
    let made = server.client.spawn(&SpawnRequest::default()).await.unwrap();
    made.id.to_string()
}

fn flood() -> Value {
    json!({"type": "start", "command": "flood", "mode": "argv"})
}

#[tokio::test]
async fn the_typed_dialect_runs_a_command_with_input() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let start = json!({
        "type": "start", "command": "cat; echo err >&2; exit 7", "stdin": "first ",
        "env": {"A": "b"}
    });
    let mut socket = Socket::start(server.address, &id, start).await;
    let started = socket.hear().await.unwrap();
    assert_eq!(started["type"], "started");
    assert!(started["pid"].as_u64().unwrap() > 0, "{started}");
    assert_eq!(started["exec_id"], "ex-1", "{started}");
    socket
        .say(json!({"type": "stdin", "data": "second "}))
        .await;
    socket
        .say(json!({"type": "stdin", "data_b64": "w6k="}))
        .await;
    socket.say(json!({"type": "stdin_close"})).await;
    let (frames, close) = socket.rest().await;
    assert_eq!(printed(&frames, "stdout"), "first second é");
    assert_eq!(printed(&frames, "stderr"), "err\n");
    let last = frames.last().unwrap();
    assert_eq!(
        (&last["type"], &last["exit_code"]),
        (&json!("exit"), &json!(7))
    );
    assert!(last.get("reason").is_none(), "{last}");
    assert_eq!(close, 1000);
    server.stop().await;
}

#[tokio::test]
async fn the_plain_dialect_is_a_stream_with_two_last_words() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let first = json!({"command": "cat; echo err >&2; exit 3", "stdin": "€uro"});
    let mut socket = Socket::start(server.address, &id, first).await;
    let (frames, close) = socket.rest().await;
    assert_eq!(printed(&frames, "stdout"), "€uro");
    assert_eq!(printed(&frames, "stderr"), "err\n");
    let [.., exit, done] = frames.as_slice() else {
        panic!("{frames:?}");
    };
    assert_eq!(
        (&exit["type"], &exit["exit_code"]),
        (&json!("exit"), &json!(3))
    );
    assert!(exit["duration"].is_string(), "{exit}");
    assert_eq!(*done, json!({"type": "done"}));
    assert_eq!(close, 1000);
    // Without input of its own a command has none.
    let mut socket = Socket::start(server.address, &id, json!({"command": "cat"})).await;
    assert_eq!(socket.rest().await.0.len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn a_terminal_is_one_with_a_size_and_control_characters() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let start = json!({
        "type": "start", "command": "test -t 0 && stty size && cat", "tty": true,
        "cols": 91, "rows": 17
    });
    let mut socket = Socket::start(server.address, &id, start).await;
    socket.until("17 91").await;
    // Once by the terminal, once by cat: before cat runs, the shell may swallow an interrupt.
    socket
        .say(json!({"type": "stdin", "data": "twice\n"}))
        .await;
    socket.until("twice\r\ntwice\r\n").await;
    socket.say(json!({"type": "stdin", "data": "\u{3}"})).await;
    let (frames, _) = socket.rest().await;
    let last = frames.last().unwrap();
    assert_eq!(
        (&last["exit_code"], &last["reason"]),
        (&json!(130), &json!("signal"))
    );
    let start = json!({
        "type": "start", "tty": true,
        "command": "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    });
    let mut socket = Socket::start(server.address, &id, start).await;
    socket.until("ready").await;
    socket
        .say(json!({"type": "resize", "cols": 120, "rows": 40}))
        .await;
    let (frames, _) = socket.rest().await;
    assert!(printed(&frames, "stdout").contains("40 120"), "{frames:?}");
    server.stop().await;
}

#[tokio::test]
async fn signals_reach_the_command() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    for (name, code) in [
        (json!("SIGTERM"), 143),
        (json!("INT"), 130),
        (json!(9), 137),
    ] {
        let start = json!({"type": "start", "command": "echo ready; exec sleep 1000"});
        let mut socket = Socket::start(server.address, &id, start).await;
        socket.until("ready").await;
        socket.say(json!({"type": "signal", "name": name})).await;
        let (frames, close) = socket.rest().await;
        assert_eq!(frames.last().unwrap()["exit_code"], code, "{frames:?}");
        assert_eq!(close, 1000);
    }
    server.stop().await;
}

#[tokio::test]
async fn characters_are_whole_and_base64_is_exact() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let print = r"printf '\342'; sleep 0.05; printf '\202'; sleep 0.05; printf '\254\377'";
    let mut start = json!({"type": "start", "command": print});
    let mut socket = Socket::start(server.address, &id, start.clone()).await;
    assert_eq!(printed(&socket.rest().await.0, "stdout"), "€\u{FFFD}");
    start["encoding"] = json!("base64");
    let mut socket = Socket::start(server.address, &id, start).await;
    let (frames, _) = socket.rest().await;
    let mut bytes = Vec::new();
    for frame in frames.iter().filter(|frame| frame["type"] == "stdout") {
        use base64::Engine;
        let coded = frame["data_b64"].as_str().unwrap();
        let decoded = base64::engine::general_purpose::STANDARD.decode(coded);
        bytes.extend(decoded.unwrap());
    }
    assert_eq!(bytes, b"\xe2\x82\xac\xff");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_whole_tree_with_it() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    for (number, politely) in [(1, true), (2, false)] {
        let mark = format!("8641{number}.{}", std::process::id());
        let command = format!("setsid sleep {mark} & sleep {mark} & echo ready; wait");
        let start = json!({"type": "start", "command": command});
        let mut socket = Socket::start(server.address, &id, start).await;
        socket.until("ready").await;
        eventually("both run", async || with_argument(&mark) == 2).await;
        if politely {
            socket.0.close(None).await.unwrap();
            assert_eq!(socket.rest().await.1, 1005);
        }
        drop(socket);
        eventually("the tree is gone", async || with_argument(&mark) == 0).await;
    }
    server.stop().await;
}

/// How many processes have this argument.
fn with_argument(argument: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let command = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let has = |line: &Vec<u8>| {
        line.split(|byte| *byte == 0)
            .any(|word| word == argument.as_bytes())
    };
    processes.filter_map(command).filter(has).count()
}

#[tokio::test]
async fn a_bad_first_frame_closes_1007() {
    let (server, _) = Server::with_fake().await;
    let id = spawn(&server).await;
    for first in [
        Message::text("hello"),
        Message::text("[1]"),
        Message::text("{}"),
        Message::text(r#"{"type":"stdin","data":"x"}"#),
        Message::text(r#"{"type":"start"}"#),
        Message::text(r#"{"command":["ls"]}"#),
        Message::binary(b"{\"command\":\"ls\"}".as_slice()),
    ] {
        let mut socket = Socket::open(server.address, &id).await;
        socket.0.send(first.clone()).await.unwrap();
        let close = socket.hear().await.expect_err("a frame before the close");
        let close = close.unwrap();
        assert_eq!(close.code, CloseCode::Invalid, "{first:?}");
        assert!(!close.reason.is_empty(), "{first:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_before_the_upgrade_is_an_ordinary_error() {
    let mut options = Options::default();
    options.server.api_key = Some("right-key".into());
    let server = Server::start(options).await;
    let key = "X-API-Key: right-key\r\n";
    let path = "/api/v1/sandboxes/sb-00000000/exec/ws";
    send(server.address, "GET", path, key, b"")
        .await
        .expect(404, "NOT_FOUND");
    let status = |opened: Result<Socket, Error>| match opened {
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => 101,
    };
    for (key, id, expected) in [
        ("right-key", "sb-00000000", 404),
        ("right-key", "nonsense", 404),
        ("wrong", "sb-00000000", 401),
    ] {
        let opened = try_open(server.address, id, &[("x-api-key", key)]).await;
        assert_eq!(status(opened), expected, "{key} {id}");
    }
    server.stop().await;
}

#[tokio::test]
async fn without_an_upgrade_the_route_says_what_it_speaks() {
    let (server, _) = Server::with_fake().await;
    let path = format!("/api/v1/sandboxes/{}/exec/ws", spawn(&server).await);
    get(server.address, &path).await.expect(400, "BAD_REQUEST");
    let post = send(server.address, "POST", &path, "", b"{}").await;
    post.expect(405, "METHOD_NOT_ALLOWED");
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_the_command_is_an_error_frame() {
    let (server, _) = Server::with_fake().await;
    let id = spawn(&server).await;
    for (first, code) in [
        (json!({"type": "start", "command": " "}), "BAD_REQUEST"),
        (json!({"command": "x", "timeout": "1d"}), "BAD_REQUEST"),
        (json!({"command": "x", "mode": "other"}), "BAD_REQUEST"),
        (json!({"command": "refuse", "mode": "argv"}), "BAD_REQUEST"),
    ] {
        let mut socket = Socket::start(server.address, &id, first.clone()).await;
        let (frames, close) = socket.rest().await;
        assert_eq!(frames.len(), 1, "{first}: {frames:?}");
        assert_eq!(frames[0]["type"], "error", "{first}");
        assert_eq!(frames[0]["code"], code, "{first}");
        assert_eq!(close, 1000);
    }
    server.stop().await;
}

#[tokio::test]
async fn foreign_pages_may_not_open_one_while_no_key_protects_the_server() {
    let (server, _) = Server::with_fake().await;
    let id = spawn(&server).await;
    let own = format!("http://{}", server.address);
    for (origin, allowed) in [
        ("http://evil.example", false),
        ("null", false),
        (own.as_str(), true),
    ] {
        let opened = try_open(server.address, &id, &[("origin", origin)]).await;
        match opened {
            Ok(_) => assert!(allowed, "{origin}"),
            Err(Error::Http(response)) => {
                assert!(!allowed, "{origin}");
                assert_eq!(response.status(), 403, "{origin}");
            }
            Err(error) => panic!("{origin}: {error}"),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_command() {
    let (server, fake) = Server::with_fake().await;
    let id = spawn(&server).await;
    let mut socket = Socket::start(server.address, &id, flood()).await;
    assert_eq!(socket.hear().await.unwrap()["type"], "started");
    let seen = fake.seen(&id);
    let count = || seen.flooded.load(Ordering::Relaxed);
    let mut before = count();
    let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = count();
        if now == before && now > 0 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "it never stops");
        before = now;
    }
    // What the kernel's buffers of both ends hold, and little more.
    assert!(before < 512, "{before} pieces of 64 KiB");
    // It is heard all the same, and runs on when the client reads on.
    for _ in 0..2 * before {
        socket.hear().await.unwrap();
    }
    drop(socket);
    tokio::time::timeout(TEST_TIMEOUT, seen.abandoned.notified())
        .await
        .unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_signal_overtakes_input_that_nobody_reads() {
    let (server, _) = Server::with_fake().await;
    let id = spawn(&server).await;
    let start =
        json!({"type": "start", "command": "deaf", "mode": "argv", "stdin": "x".repeat(500_000)});
    let mut socket = Socket::start(server.address, &id, start).await;
    assert_eq!(socket.hear().await.unwrap()["type"], "started");
    for _ in 0..8 {
        let data = "y".repeat(100_000);
        socket.say(json!({"type": "stdin", "data": data})).await;
    }
    socket
        .say(json!({"type": "resize", "cols": 1, "rows": 1}))
        .await;
    socket.say(json!({"type": "signal", "name": "INT"})).await;
    let (frames, close) = socket.rest().await;
    assert_eq!(frames.last().unwrap()["exit_code"], 130);
    assert_eq!(close, 1000);
    server.stop().await;
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_the_connection() {
    let mut options = Options::default();
    options.server.json_limit = 10_000;
    let server = Server::start(options).await;
    let id = spawn(&server).await;
    let mut socket = Socket::start(server.address, &id, flood()).await;
    socket
        .say(json!({"type": "stdin", "data": "x".repeat(20_000)}))
        .await;
    let ending = async { while let Some(Ok(_)) = socket.0.next().await {} };
    tokio::time::timeout(TEST_TIMEOUT, ending).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_leaves_no_conversation_behind() {
    let (server, fake) = Server::with_fake().await;
    let id = spawn(&server).await;
    let mut talking = Socket::start(server.address, &id, flood()).await;
    assert_eq!(talking.hear().await.unwrap()["type"], "started");
    let silent = Socket::open(server.address, &id).await;
    // One that owes the server its close.
    let mut rude = Socket::open(server.address, &id).await;
    rude.say(json!("nonsense")).await;
    let seen = fake.seen(&id);
    // It returns only when every connection has ended, also those that were upgraded, although
    // none of these clients does its part.
    server.stop_within(Duration::from_millis(100)).await;
    for socket in [silent, rude] {
        let mut stream = socket.0.into_inner().into_std().unwrap();
        let mut rest = Vec::new();
        // It does not block: were the connection still open, this would say so. One of which the
        // server had not read everything is broken off, which is an end as well.
        let end = std::io::Read::read_to_end(&mut stream, &mut rest);
        let open = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!open, "a connection was left open");
    }
    tokio::time::timeout(TEST_TIMEOUT, seen.abandoned.notified())
        .await
        .unwrap();
    drop(talking);
}

#[tokio::test]
async fn a_detached_command_is_followed_over_one_socket_after_another() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let start = json!({
        "type": "start", "detach": true, "tty": true, "cols": 90, "rows": 20,
        "command": "stty -echo; stty size; i=0; while [ $i -lt 20000 ]; do echo \"line $i é\"; i=$((i+1)); done; read word; stty size; echo \"heard $word\"; exit 5"
    });
    let mut socket = Socket::start(server.address, &id, start).await;
    let started = socket.hear().await.unwrap();
    let exec = format!("{id}/execs/{}", started["exec_id"].as_str().unwrap());
    let (mut all, mut offset, mut cuts) = (String::new(), 0, 0);
    // Cut in the middle, again and again, without a word.
    while !all.contains("line 19999") {
        let frame = socket.hear().await.unwrap();
        if let Some(text) = frame["data"].as_str() {
            assert_eq!(frame["type"], "stdout", "{frame}");
            all.push_str(text);
            offset = frame["offset"].as_u64().unwrap();
        }
        if all.len() > 20_000 * (cuts + 1) {
            cuts += 1;
            drop(socket);
            let path = format!("{exec}/attach?offset={offset}&stdin_ack=true");
            socket = try_path(server.address, &path, &[]).await.unwrap();
            assert_eq!(socket.hear().await.unwrap()["exec_id"], started["exec_id"]);
        }
    }
    assert!(cuts >= 3, "{cuts}");
    socket
        .say(json!({"type": "resize", "cols": 100, "rows": 30}))
        .await;
    socket.say(json!({"type": "stdin", "data": "me\n"})).await;
    let (frames, close) = socket.rest().await;
    all.push_str(&printed(&frames, "stdout"));
    let last = frames.last().unwrap();
    assert_eq!(
        (&last["type"], &last["exit_code"]),
        (&json!("exit"), &json!(5))
    );
    assert_eq!(close, 1000);
    let lines: String = (0..20_000).map(|i| format!("line {i} é\r\n")).collect();
    assert_eq!(all, format!("20 90\r\n{lines}30 100\r\nheard me\r\n"));
    // Over plain HTTP it is the same command.
    let path = format!("/api/v1/sandboxes/{exec}");
    assert_eq!(get(server.address, &path).await.json()["exit_code"], 5);
    let wrong = try_path(server.address, &format!("{id}/execs/ex-99/attach"), &[]).await;
    assert!(matches!(wrong, Err(Error::Http(answer)) if answer.status() == 404));
    server.stop().await;
}
