//! A socket that answers like an engine, for faults that a real one does not have on demand. It knows
//! containers by name and state, and sends events only when the test says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use stacyvm_docker::{DockerProvider, DockerSettings, EngineAddress};
use stacyvm_types::SandboxId;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// The tag of every provider over a fake engine.
pub(crate) const TAG: &str = "fake";

/// What is sent on the streams of events.
#[derive(Clone, Debug)]
enum StreamPart {
    Bytes(Vec<u8>),
    /// The connection breaks.
    Cut,
}

#[derive(Debug)]
struct EngineState {
    /// The API's state of each container, by name.
    containers: Mutex<BTreeMap<String, &'static str>>,
    parts: broadcast::Sender<StreamPart>,
    /// The events since the engine was last asked for its time, for followers from that time on.
    since: Mutex<String>,
    /// How often the events were requested.
    followed: Mutex<usize>,
    listed: Mutex<usize>,
}

/// The engine; dropping it removes the socket.
#[derive(Debug)]
pub(crate) struct FakeEngine {
    directory: TempDir,
    state: Arc<EngineState>,
    serving: Option<JoinHandle<()>>,
}

impl FakeEngine {
    pub(crate) fn start() -> Self {
        let state = EngineState {
            containers: Mutex::default(),
            parts: broadcast::channel(256).0,
            since: Mutex::default(),
            followed: Mutex::default(),
            listed: Mutex::default(),
        };
        let mut engine = Self {
            directory: tempfile::tempdir().unwrap(),
            state: Arc::new(state),
            serving: None,
        };
        engine.come_back();
        engine
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("engine.sock")
    }

    /// A provider of this engine.
    pub(crate) fn provider(&self) -> DockerProvider {
        let address = EngineAddress::Unix(self.socket());
        DockerProvider::new(DockerSettings::new(address, TAG, "/nonexistent")).unwrap()
    }

    /// Sets the state of a container, `gone` for none, without an event.
    pub(crate) fn set(&self, id: &SandboxId, state: &'static str) {
        let mut containers = self.state.containers.lock();
        let name = name(id);
        if state == "gone" {
            containers.remove(&name);
        } else {
            containers.insert(name, state);
        }
    }

    /// One event in the engine's form.
    pub(crate) fn event(id: &SandboxId, action: &str, more: &[(&str, &str)]) -> String {
        let mut attributes = serde_json::json!({"name": name(id), "stacyvm.instance": TAG});
        for (key, value) in more {
            attributes[key] = (*value).into();
        }
        let actor = serde_json::json!({"ID": "0123", "Attributes": attributes});
        serde_json::json!({"Type": "container", "Action": action, "Actor": actor}).to_string()
            + "\n"
    }

    /// Sends a text on every stream of events.
    pub(crate) fn say(&self, text: &str) {
        let mut since = self.state.since.lock();
        since.push_str(text);
        let _ = self.state.parts.send(StreamPart::Bytes(text.into()));
    }

    /// Breaks every stream of events.
    pub(crate) fn cut(&self) {
        let _ = self.state.parts.send(StreamPart::Cut);
    }

    /// How often the events were requested, and the containers listed.
    pub(crate) fn asked(&self) -> (usize, usize) {
        let followed = *self.state.followed.lock();
        (followed, *self.state.listed.lock())
    }

    /// Stops answering.
    pub(crate) async fn go_away(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
        std::fs::remove_file(self.socket()).unwrap();
        self.cut();
    }

    pub(crate) fn come_back(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let state = Arc::clone(&self.state);
        self.serving = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&state), stream));
            }
        }));
    }
}

fn name(id: &SandboxId) -> String {
    format!("stacyvm-{TAG}-{id}")
}

/// Answers one request and closes the connection.
async fn serve(state: Arc<EngineState>, mut stream: UnixStream) {
    let mut asked = Vec::new();
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut byte = [0; 512];
        match stream.read(&mut byte).await {
            Ok(0) | Err(_) => return,
            Ok(length) => asked.extend_from_slice(&byte[..length]),
        }
    }
    let asked = String::from_utf8(asked).unwrap();
    let path = asked.split(' ').nth(1).unwrap();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let path = match path.strip_prefix("/v1.") {
        Some(rest) => &rest[rest.find('/').unwrap()..],
        None => path,
    };
    if path == "/events" {
        let from_then = query.contains("since=1767225600.500000");
        return tell(&state, &mut stream, from_then).await;
    }
    let (status, body) = answer(&state, path);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).await;
}

fn answer(state: &EngineState, path: &str) -> (&'static str, String) {
    let containers = state.containers.lock();
    match path {
        "/version" => ("200 OK", r#"{"ApiVersion":"1.41"}"#.to_owned()),
        "/info" => {
            state.since.lock().clear();
            let time = r#"{"SystemTime":"2026-01-01T00:00:00.5Z"}"#;
            ("200 OK", time.to_owned())
        }
        "/containers/json" => {
            *state.listed.lock() += 1;
            let all = containers.iter().map(
                |(name, state)| serde_json::json!({"Names": [format!("/{name}")], "State": state}),
            );
            let all: Vec<_> = all.collect();
            ("200 OK", serde_json::json!(all).to_string())
        }
        _ => {
            let name = path
                .strip_prefix("/containers/")
                .and_then(|rest| rest.strip_suffix("/json"));
            match name.and_then(|name| containers.get(name)) {
                Some(state) => {
                    let state = serde_json::json!({"State": {"Status": state}});
                    ("200 OK", state.to_string())
                }
                None => ("404 Not Found", r#"{"message":"no such thing"}"#.to_owned()),
            }
        }
    }
}

async fn tell(state: &EngineState, stream: &mut UnixStream, from_then: bool) {
    let (mut parts, before) = {
        let since = state.since.lock();
        (state.parts.subscribe(), since.clone())
    };
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    *state.followed.lock() += 1;
    if from_then && !before.is_empty() && send(stream, before.as_bytes()).await.is_err() {
        return;
    }
    while let Ok(StreamPart::Bytes(bytes)) = parts.recv().await {
        if send(stream, &bytes).await.is_err() {
            return;
        }
    }
}

async fn send(stream: &mut UnixStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    stream.write_all(&chunk).await
}
