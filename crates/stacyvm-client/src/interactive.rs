//! Interactive commands: input, signals and sizes while they run, over a WebSocket.
//!
//! Input in flight is bounded by what the server has acknowledged, so a signal is never stuck
//! behind input that the command does not read.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
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
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use stacyvm_types::{
    ApiError, ClientFrame, ErrorCode, ExecRequest, ExitReason, OutputStream, SignalName,
    SocketOptions,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::request::Payload;
use crate::sandboxes::sandbox_path;
use crate::{Client, ClientError};

/// Input in flight that the command has not taken, bytes; the server holds twice as much.
const WINDOW: usize = 512 * 1024;
/// The largest chunk of input, bytes.
const CHUNK_SIZE: usize = 32 * 1024;
/// What a chunk takes of the window at least, as the server counts it.
const MIN_CHUNK_WEIGHT: usize = 1024;
/// Frames that wait to be written.
const FRAME_QUEUE: usize = 16;
/// How often the client sends a ping: its answers to the server's pings may be stuck behind output
/// that the caller does not read.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// A server that sends nothing for this long is taken for gone; it pings three times as often.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// One frame of a running command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecFrame {
    /// It runs.
    Started {
        /// Its process inside the sandbox.
        pid: u32,
    },
    /// A chunk of output, byte by byte as it was written.
    Output(OutputStream, Bytes),
    /// It ended; nothing follows.
    Exit {
        /// 0–255; 128+N after death by signal N.
        exit_code: i32,
        /// Present when something other than an exit ended it.
        reason: Option<ExitReason>,
    },
}

/// The input side of a running command. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ExecInput {
    frames: mpsc::Sender<Message>,
    window: Arc<Window>,
}

/// The output side of a running command. Dropping it closes the connection, which kills the
/// command's whole process tree.
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

/// Bounds the input in flight.
#[derive(Debug)]
struct Window {
    room: Semaphore,
    in_flight: Mutex<InFlight>,
}

#[derive(Debug, Default)]
struct InFlight {
    sent: u64,
    /// Where each chunk ends, and what it takes of the window.
    chunks: VecDeque<(u64, usize)>,
}

impl Window {
    async fn take(&self, length: usize) {
        let weight = length.max(MIN_CHUNK_WEIGHT);
        let room = self
            .room
            .acquire_many(u32::try_from(weight).unwrap_or(u32::MAX));
        if let Ok(room) = room.await {
            room.forget();
        }
        let mut in_flight = self.in_flight.lock();
        in_flight.sent += length as u64;
        let end = in_flight.sent;
        in_flight.chunks.push_back((end, weight));
    }

    fn acknowledged(&self, bytes: u64) {
        let mut in_flight = self.in_flight.lock();
        while let Some((end, weight)) = in_flight.chunks.front().copied() {
            if end > bytes {
                break;
            }
            in_flight.chunks.pop_front();
            self.room.add_permits(weight);
        }
    }
}

impl Client {
    /// Runs an interactive command: with a terminal of `tty` columns and rows, or with pipes. Its
    /// input is open until [`ExecInput::close_stdin`].
    ///
    /// # Errors
    /// See [`Client::spawn`]. What is wrong with the command itself is the output's first error.
    pub async fn exec_interactive(
        &self,
        id: &str,
        request: &ExecRequest,
        tty: Option<(u16, u16)>,
    ) -> Result<(ExecInput, ExecOutput), ClientError> {
        let path = sandbox_path(id, "/exec/ws");
        let (mut sink, stream) = self.socket(&path).await?.split();
        sink.send(text(&Start::new(request, tty)))
            .await
            .map_err(|error| broken(self.server(), error))?;
        let (frames, waiting) = mpsc::channel(FRAME_QUEUE);
        let window = Arc::new(Window {
            room: Semaphore::new(WINDOW),
            in_flight: Mutex::default(),
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

/// The first frame: the request, and how the conversation is to go.
#[derive(Serialize)]
struct Start<'a> {
    #[serde(flatten)]
    request: &'a ExecRequest,
    #[serde(flatten)]
    options: SocketOptions,
}

impl<'a> Start<'a> {
    fn new(request: &'a ExecRequest, tty: Option<(u16, u16)>) -> Self {
        let options = SocketOptions {
            kind: Some("start".to_owned()),
            tty: tty.map(|_| true),
            cols: tty.map(|(cols, _)| cols),
            rows: tty.map(|(_, rows)| rows),
            encoding: Some("base64".to_owned()),
            stdin_ack: Some(true),
        };
        Self { request, options }
    }
}

fn text(frame: &impl Serialize) -> Message {
    let text = serde_json::to_string(frame).expect("our own types are always JSON");
    Message::text(text)
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

/// Writes the frames that wait, until every [`ExecInput`] is dropped or the connection is gone; the
/// reading side reports which.
async fn write(mut sink: SplitSink<Socket, Message>, mut frames: mpsc::Receiver<Message>) {
    let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
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
            let chunk = bytes.split_to(bytes.len().min(CHUNK_SIZE));
            self.window.take(chunk.len()).await;
            let data = STANDARD.encode(&chunk);
            if !self.send(ClientFrame::stdin(data)).await {
                return false;
            }
        }
        true
    }

    /// Ends its input.
    pub async fn close_stdin(&self) -> bool {
        self.send(ClientFrame::stdin_close()).await
    }

    /// Gives its terminal another size.
    pub async fn resize(&self, cols: u16, rows: u16) -> bool {
        self.send(ClientFrame::resize(cols, rows)).await
    }

    /// Sends its process group a signal, by its Linux number.
    pub async fn signal(&self, number: i32) -> bool {
        let signal = SignalName::Number(number);
        self.send(ClientFrame::signal(signal)).await
    }

    async fn send(&self, frame: ClientFrame) -> bool {
        self.frames.send(text(&frame)).await.is_ok()
    }
}

/// A frame of the server, as it came.
#[derive(Deserialize)]
struct ServerFrame {
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
    /// The command's next frame. Nothing follows the exit.
    ///
    /// # Errors
    /// `Api` when the command cannot be run, with the status of the upgrade; `Socket` when the
    /// connection broke or the server fell silent; `Answer` when a frame is not understood.
    pub async fn next(&mut self) -> Result<ExecFrame, ClientError> {
        loop {
            let next = timeout(IDLE_TIMEOUT, self.stream.next()).await;
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
            let frame: ServerFrame = serde_json::from_str(text.as_str())
                .map_err(|error| self.unexpected(error.to_string()))?;
            if let Some(frame) = self.decode(frame)? {
                return Ok(frame);
            }
        }
    }

    fn decode(&self, frame: ServerFrame) -> Result<Option<ExecFrame>, ClientError> {
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
            // A kind of frame that only a newer server sends.
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
