//! Commands that are talked to while they run, over a WebSocket.
//!
//! The input that is under way is bounded by what the server has acknowledged, so a signal is
//! never stuck behind input that the command does not read.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::{Method, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use stacyvm_types::{ApiError, ErrorCode, ExecRequest, ExitReason, OutputStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::request::Payload;
use crate::sandboxes::of;
use crate::{Client, ClientError};

/// Input under way that the command has not taken, bytes; the server holds twice as much.
const WINDOW: usize = 512 * 1024;
/// The largest piece of input.
const PIECE: usize = 32 * 1024;
/// What a piece takes of the window at least, as the server counts it.
const LEAST: usize = 1024;
/// Frames that wait to be written.
const FRAMES: usize = 16;
/// How often we say that we are there: our answers to the server's pings may be stuck behind
/// output that nobody takes from us.
const PING: Duration = Duration::from_secs(20);
/// A server that says nothing for so long is gone; it pings three times as often.
const SILENCE: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What a running command says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecFrame {
    /// It runs.
    Started {
        /// Its process inside the sandbox.
        pid: u32,
    },
    /// A piece of output, byte by byte as it was written.
    Output(OutputStream, Bytes),
    /// It ended; nothing follows.
    Exit {
        /// 0–255; 128+N after death by signal N.
        exit_code: i32,
        /// Present when something other than an exit ended it.
        reason: Option<ExitReason>,
    },
}

/// What can be told to a running command. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ExecInput {
    frames: mpsc::Sender<Message>,
    window: Arc<Window>,
}

/// What a running command says. Dropping it closes the connection, which kills the command's
/// whole process tree.
pub struct ExecOutput {
    stream: SplitStream<Socket>,
    window: Arc<Window>,
    server: String,
    writer: AbortHandle,
}

impl std::fmt::Debug for ExecOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecOutput").finish_non_exhaustive()
    }
}

impl Drop for ExecOutput {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// How much input may be under way.
#[derive(Debug)]
struct Window {
    room: Semaphore,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    sent: u64,
    /// Where each piece ends, and what it takes of the window.
    pieces: VecDeque<(u64, usize)>,
}

impl Window {
    async fn take(&self, length: usize) {
        let weight = length.max(LEAST);
        let room = self
            .room
            .acquire_many(u32::try_from(weight).unwrap_or(u32::MAX));
        if let Ok(room) = room.await {
            room.forget();
        }
        let mut under_way = self.lock();
        under_way.sent += length as u64;
        let end = under_way.sent;
        under_way.pieces.push_back((end, weight));
    }

    fn acknowledged(&self, bytes: u64) {
        let mut under_way = self.lock();
        while let Some((end, weight)) = under_way.pieces.front().copied() {
            if end > bytes {
                break;
            }
            under_way.pieces.pop_front();
            self.room.add_permits(weight);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, UnderWay> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Runs a command that is talked to while it runs: with a terminal of `tty` columns and rows, or
    /// with pipes. Its input is open until [`ExecInput::close_stdin`].
    ///
    /// # Errors
    /// See [`Client::spawn`]. What is wrong with the command itself is the output's first word.
    pub async fn exec_interactive(
        &self,
        id: &str,
        request: &ExecRequest,
        tty: Option<(u16, u16)>,
    ) -> Result<(ExecInput, ExecOutput), ClientError> {
        let (mut sink, stream) = self.socket(&of(id, "/exec/ws")).await?.split();
        let start = start(request, tty);
        sink.send(Message::text(start.to_string()))
            .await
            .map_err(|error| broken(self.server(), error))?;
        let (frames, waiting) = mpsc::channel(FRAMES);
        let window = Arc::new(Window {
            room: Semaphore::new(WINDOW),
            under_way: Mutex::default(),
        });
        let output = ExecOutput {
            stream,
            window: Arc::clone(&window),
            server: self.server().to_owned(),
            writer: tokio::spawn(write(sink, waiting)).abort_handle(),
        };
        Ok((ExecInput { frames, window }, output))
    }

    /// Turns a request into a WebSocket.
    async fn socket(&self, path: &str) -> Result<Socket, ClientError> {
        let key = generate_key();
        let headers = [
            (CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, key.as_str()),
        ];
        let answer = self
            .send(Method::GET, path, &headers, Payload::None)
            .await?;
        let response = answer.response;
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT);
        let expected = derive_accept_key(key.as_bytes());
        if response.status() != StatusCode::SWITCHING_PROTOCOLS
            || accepted.is_none_or(|accepted| accepted.as_bytes() != expected.as_bytes())
        {
            return Err(self.unexpected("it does not speak WebSocket here"));
        }
        let upgraded = hyper::upgrade::on(response).await;
        let upgraded = upgraded.map_err(|source| ClientError::Transport {
            server: self.server().to_owned(),
            source,
        })?;
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
    }
}

/// The first frame: the request, and how we talk.
fn start(request: &ExecRequest, tty: Option<(u16, u16)>) -> Value {
    let mut start = serde_json::to_value(request).expect("our own types are always JSON");
    start["type"] = json!("start");
    start["encoding"] = json!("base64");
    start["stdin_ack"] = json!(true);
    if let Some((cols, rows)) = tty {
        start["tty"] = json!(true);
        start["cols"] = json!(cols);
        start["rows"] = json!(rows);
    }
    start
}

fn broken(server: &str, error: tungstenite::Error) -> ClientError {
    ClientError::Socket {
        server: server.to_owned(),
        source: match error {
            tungstenite::Error::Io(error) => error,
            other => io::Error::other(other),
        },
    }
}

/// Writes what waits, until nobody has anything to say or the connection is gone; the reading
/// side says which.
async fn write(mut sink: SplitSink<Socket, Message>, mut frames: mpsc::Receiver<Message>) {
    let mut pings = interval_at(Instant::now() + PING, PING);
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => frame,
            _ = pings.tick() => Some(Message::Ping(Bytes::new())),
        };
        let Some(frame) = frame else {
            return;
        };
        if sink.send(frame).await.is_err() {
            return;
        }
    }
}

impl ExecInput {
    /// Sends input; waits while the command does not take what was sent before. False when the
    /// connection is gone.
    pub async fn stdin(&self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            self.window.take(piece.len()).await;
            let data = STANDARD.encode(&piece);
            if !self.say(json!({"type": "stdin", "data_b64": data})).await {
                return false;
            }
        }
        true
    }

    /// Ends its input.
    pub async fn close_stdin(&self) -> bool {
        self.say(json!({"type": "stdin_close"})).await
    }

    /// Gives its terminal another size.
    pub async fn resize(&self, cols: u16, rows: u16) -> bool {
        self.say(json!({"type": "resize", "cols": cols, "rows": rows}))
            .await
    }

    /// Sends its process group a signal, by its Linux number.
    pub async fn signal(&self, number: i32) -> bool {
        self.say(json!({"type": "signal", "name": number})).await
    }

    async fn say(&self, frame: Value) -> bool {
        let frame = Message::text(frame.to_string());
        self.frames.send(frame).await.is_ok()
    }
}

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    pid: Option<u32>,
    data_b64: Option<String>,
    bytes: Option<u64>,
    exit_code: Option<i32>,
    reason: Option<ExitReason>,
    code: Option<ErrorCode>,
    message: Option<String>,
}

impl ExecOutput {
    /// What the command says next. After the exit it says nothing more.
    ///
    /// # Errors
    /// `Api` when the command cannot be run, with the status of the upgrade; `Socket` when the
    /// connection broke or the server fell silent; `Answer` when what it says makes no sense.
    pub async fn next(&mut self) -> Result<ExecFrame, ClientError> {
        loop {
            let next = timeout(SILENCE, self.stream.next()).await;
            let text = match next {
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(Message::Close(frame)))) => {
                    let words = frame.as_ref().map_or("", |frame| frame.reason.as_str());
                    return Err(self.unexpected(format!(
                        "it closed the connection before the command ended ({words})"
                    )));
                }
                Ok(Some(Ok(_))) => continue,
                Ok(Some(Err(error))) => return Err(broken(&self.server, error)),
                Ok(None) => return Err(self.lost(io::ErrorKind::UnexpectedEof)),
                Err(_) => return Err(self.lost(io::ErrorKind::TimedOut)),
            };
            let frame: Frame = serde_json::from_str(text.as_str())
                .map_err(|error| self.unexpected(error.to_string()))?;
            if let Some(frame) = self.understand(frame)? {
                return Ok(frame);
            }
        }
    }

    fn understand(&self, frame: Frame) -> Result<Option<ExecFrame>, ClientError> {
        let stream = match frame.kind.as_str() {
            "stdout" => OutputStream::Stdout,
            "stderr" => OutputStream::Stderr,
            "started" => {
                let pid = frame.pid.unwrap_or_default();
                return Ok(Some(ExecFrame::Started { pid }));
            }
            "stdin_ack" => {
                self.window.acknowledged(frame.bytes.unwrap_or_default());
                return Ok(None);
            }
            "exit" => {
                let Some(exit_code) = frame.exit_code else {
                    return Err(self.unexpected("an exit without a code"));
                };
                let reason = frame.reason;
                return Ok(Some(ExecFrame::Exit { exit_code, reason }));
            }
            "error" => {
                let code = frame.code.unwrap_or(ErrorCode::InternalError);
                return Err(ClientError::Api {
                    status: StatusCode::SWITCHING_PROTOCOLS.as_u16(),
                    error: ApiError::new(code, frame.message.unwrap_or_default()),
                });
            }
            // Said by a newer server.
            _ => return Ok(None),
        };
        let data = frame.data_b64.map(|data| STANDARD.decode(data));
        match data {
            Some(Ok(bytes)) => Ok(Some(ExecFrame::Output(stream, bytes.into()))),
            _ => Err(self.unexpected("output that is not base64")),
        }
    }

    fn unexpected(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Answer {
            server: self.server.clone(),
            reason: reason.into(),
        }
    }

    fn lost(&self, kind: io::ErrorKind) -> ClientError {
        ClientError::Socket {
            server: self.server.clone(),
            source: kind.into(),
        }
    }
}
