//! One WebSocket and one command, until either ends.
//!
//! Output goes from the command's bounded channel straight into the socket: a client that does not
//! read makes the command wait, and nothing is collected here. The reader of frames works beside
//! it. When the client leaves or is silent for too long, the command's events are dropped, and with
//! them its process tree, unless the command is detached.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, close_code};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use parking_lot::Mutex;
use stacyvm_orchestrator::{AttachedExec, ExecControl, ExecEvent, RunningExec};
use stacyvm_types::{ErrorCode, ExecId};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::client_input::ClientInput;
use super::frame_encoder::FrameEncoder;
use super::input::{Input, input};
use super::start_frame::Dialect;
use crate::error::Failure;

/// How often the server sends a ping.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// A client that sends nothing for this long, not even a pong, is taken for gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the first frame may take to come.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a client may take to answer a close. Until then what it still sends is read: unread
/// bytes would turn the end of the connection into a reset, which discards the last frames.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the last frames may take when the server stops.
const SHUTDOWN_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Waiting events that go into one write.
const MAX_BATCH: usize = 8;
/// Failures that wait to be reported; more are dropped.
const MAX_PENDING_FAILURES: usize = 4;

/// The connection of a session.
pub(crate) trait Socket:
    Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin
{
}

impl<S> Socket for S where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin
{
}

/// A running command, started for this session or followed by it.
#[derive(Debug)]
pub(crate) struct SessionExec {
    pub(crate) exec_id: ExecId,
    pub(crate) pid: u32,
    pub(crate) events: mpsc::Receiver<ExecEvent>,
    pub(crate) control: mpsc::Sender<ExecControl>,
}

impl From<RunningExec> for SessionExec {
    fn from(exec: RunningExec) -> Self {
        Self {
            exec_id: ExecId(exec.exec_id),
            pid: exec.pid,
            events: exec.events,
            control: exec.control,
        }
    }
}

impl From<AttachedExec> for SessionExec {
    fn from(exec: AttachedExec) -> Self {
        Self {
            exec_id: exec.info.exec_id,
            pid: exec.info.pid,
            events: exec.events,
            control: exec.control,
        }
    }
}

/// A running command, and how its frames are formed.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) exec: SessionExec,
    pub(crate) encoder: FrameEncoder,
    /// Input that came with the request, in the typed dialect.
    pub(crate) stdin: Bytes,
    /// Whether input is acknowledged.
    pub(crate) acknowledge: bool,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionEnd {
    /// All frames were sent, and the close too.
    Finished,
    /// The client left.
    ClientGone,
    /// The server stops.
    ServerStopping,
}

/// Connects a client and a command until one of them ends or `cut` resolves.
pub(crate) async fn run_session(
    socket: impl Socket,
    session: Session,
    cut: impl Future<Output = ()>,
) {
    let (mut sink, mut stream) = socket.split();
    let mut cut = pin!(cut);
    let end = {
        let SessionExec {
            exec_id,
            pid,
            events,
            control,
        } = session.exec;
        let (input, feeder, taken) = input();
        let (report, failures) = mpsc::channel(MAX_PENDING_FAILURES);
        let typed = session.encoder.dialect() != Dialect::Plain;
        let progress = Progress::default();
        let mut writer = SocketWriter {
            progress: &progress,
            sink: &mut sink,
            encoder: session.encoder,
            events,
            failures,
            taken: session.acknowledge.then_some(taken),
        };
        let reader = SocketReader {
            progress: &progress,
            stream: &mut stream,
            input: typed.then_some(input),
            control: control.clone(),
            report,
        };
        let feeding = async {
            if typed {
                feeder.run(session.stdin, control).await;
            }
            // The end of the input is not the end of the session.
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            end = writer.run(pid, exec_id) => end,
            () = reader.run() => SessionEnd::ClientGone,
            () = cut.as_mut() => SessionEnd::ServerStopping,
            never = feeding => match never {},
        }
    };
    tracing::debug!(?end, "session of a command ended");
    match end {
        SessionEnd::Finished => tokio::select! {
            () = await_client_close(&mut stream) => {}
            () = cut => {}
        },
        SessionEnd::ClientGone => {
            // It may have closed in due form, and waits for our own close.
            let _ = timeout(SHUTDOWN_CLOSE_TIMEOUT, sink.close()).await;
        }
        SessionEnd::ServerStopping => {
            let words = Failure::new(ErrorCode::Unavailable, "the server is shutting down");
            let last = [
                FrameEncoder::failed(words),
                close(close_code::AWAY, "the server is shutting down"),
            ];
            let _ = timeout(SHUTDOWN_CLOSE_TIMEOUT, send_frames(&mut sink, last)).await;
        }
    }
}

/// The first text frame of a client; none when the client has gone.
///
/// # Errors
/// What is wrong with the frame, as a sentence for a close frame.
pub(crate) async fn first_frame(
    socket: &mut impl Socket,
) -> Result<Option<Utf8Bytes>, &'static str> {
    let first = timeout(FIRST_FRAME_TIMEOUT, async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(Some(text)),
                Some(Ok(Message::Binary(_))) => return Err("the first frame must be text"),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(None),
            }
        }
    });
    first
        .await
        .unwrap_or(Err("the first frame did not come in time"))
}

/// Refuses a client that does not follow the protocol.
pub(crate) async fn close_as_invalid(socket: impl Socket, words: &'static str) {
    end(socket, [close(close_code::INVALID, words)]).await;
}

/// Reports why a command does not run, and closes.
pub(crate) async fn close_with_failure(socket: impl Socket, failure: Failure) {
    let last = [FrameEncoder::failed(failure), close(close_code::NORMAL, "")];
    end(socket, last).await;
}

async fn end<const N: usize>(socket: impl Socket, last: [Message; N]) {
    let (mut sink, mut stream) = socket.split();
    let ending = async {
        if send_frames(&mut sink, last).await.is_ok() {
            await_client_close(&mut stream).await;
        }
    };
    // A client that does not read the last frames does not need them.
    let _ = timeout(CLOSE_TIMEOUT, ending).await;
}

async fn send_frames<const N: usize>(
    sink: &mut (impl Sink<Message, Error = axum::Error> + Unpin),
    frames: [Message; N],
) -> Result<(), axum::Error> {
    for frame in frames {
        sink.feed(frame).await?;
    }
    sink.flush().await
}

fn close(code: u16, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    }))
}

/// Reads on until the client has closed too.
async fn await_client_close(
    stream: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
) {
    let reading = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = timeout(CLOSE_TIMEOUT, reading).await;
}

/// When the client last read output of the command. A slow reader shows in this way that it is
/// alive: its pongs wait behind the output.
#[derive(Debug)]
struct Progress(Mutex<Instant>);

impl Default for Progress {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Progress {
    fn made(&self) {
        *self.0.lock() = Instant::now();
    }

    fn since(&self) -> Duration {
        let last = *self.0.lock();
        last.elapsed()
    }
}

/// Writes the frames of the server.
struct SocketWriter<'a, S> {
    progress: &'a Progress,
    sink: &'a mut SplitSink<S, Message>,
    encoder: FrameEncoder,
    events: mpsc::Receiver<ExecEvent>,
    failures: mpsc::Receiver<Failure>,
    taken: Option<watch::Receiver<u64>>,
}

impl<S: Socket> SocketWriter<'_, S> {
    async fn run(&mut self, pid: u32, exec_id: ExecId) -> SessionEnd {
        match self.write_frames(pid, exec_id).await {
            Ok(()) => SessionEnd::Finished,
            Err(_) => SessionEnd::ClientGone,
        }
    }

    async fn write_frames(&mut self, pid: u32, exec_id: ExecId) -> Result<(), axum::Error> {
        let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut frames: Vec<Message> = self.encoder.started(pid, exec_id).into_iter().collect();
        let mut end = None;
        let mut output = false;
        loop {
            for frame in frames.drain(..) {
                self.sink.feed(frame).await?;
            }
            if let Some((code, words)) = end {
                return send_frames(self.sink, [close(code, words)]).await;
            }
            self.sink.flush().await?;
            if std::mem::take(&mut output) {
                self.progress.made();
            }
            tokio::select! {
                biased;
                _ = pings.tick() => frames.push(Message::Ping(Bytes::new())),
                Some(failure) = self.failures.recv() => frames.push(FrameEncoder::failed(failure)),
                bytes = next_acknowledgement(&mut self.taken) => {
                    frames.push(self.encoder.acknowledged(bytes));
                }
                event = self.events.recv() => {
                    output = true;
                    end = self.encode(event, &mut frames);
                }
            }
        }
    }

    /// Encodes an event and those that wait behind it; gives the close after the last one.
    fn encode(
        &mut self,
        event: Option<ExecEvent>,
        frames: &mut Vec<Message>,
    ) -> Option<(u16, &'static str)> {
        let Some(mut event) = event else {
            frames.push(FrameEncoder::failed(Failure::internal(
                "the command was lost",
            )));
            return Some((close_code::ERROR, "the command was lost"));
        };
        loop {
            if self.encoder.event(event, frames) {
                return Some((close_code::NORMAL, ""));
            }
            if frames.len() >= MAX_BATCH {
                return None;
            }
            match self.events.try_recv() {
                Ok(next) => event = next,
                // Also at the end of the channel, which the next turn sees.
                Err(_) => return None,
            }
        }
    }
}

/// The number of bytes taken, when it has changed.
async fn next_acknowledgement(taken: &mut Option<watch::Receiver<u64>>) -> u64 {
    if let Some(receiver) = taken {
        if receiver.changed().await.is_ok() {
            return *receiver.borrow_and_update();
        }
        // The input has ended.
        *taken = None;
    }
    std::future::pending().await
}

/// Reads the frames of the client.
struct SocketReader<'a, S> {
    progress: &'a Progress,
    stream: &'a mut SplitStream<S>,
    /// None in the dialect in which clients send nothing more.
    input: Option<Input>,
    control: mpsc::Sender<ExecControl>,
    report: mpsc::Sender<Failure>,
}

impl<S: Socket> SocketReader<'_, S> {
    /// Handles the frames of the client until it is gone.
    async fn run(mut self) {
        loop {
            let text = match timeout(IDLE_TIMEOUT, self.stream.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
                Ok(Some(Ok(Message::Binary(_)))) => {
                    self.report("binary frames are not understood");
                    continue;
                }
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => return,
                Err(_) if self.progress.since() < IDLE_TIMEOUT => continue,
                Err(_) => {
                    tracing::debug!("a client of a command is idle for too long");
                    return;
                }
            };
            let Some(input) = &mut self.input else {
                continue;
            };
            let word = match ClientInput::parse(text) {
                Ok(ClientInput::Stdin(bytes)) => {
                    input.push(bytes).await;
                    continue;
                }
                Ok(ClientInput::CloseStdin) => {
                    input.close();
                    continue;
                }
                Ok(ClientInput::Resize(size)) => ExecControl::Resize(size),
                Ok(ClientInput::Signal(signal)) => ExecControl::Signal(signal),
                Ok(ClientInput::Ignored) => continue,
                Err(failure) => {
                    // Failures beyond those that wait are dropped.
                    let _ = self.report.try_send(failure);
                    continue;
                }
            };
            // A command that has just ended takes no control messages.
            let _ = self.control.send(word).await;
        }
    }

    fn report(&self, words: &'static str) {
        let _ = self.report.try_send(Failure::bad_request(words));
    }
}

#[cfg(test)]
mod tests;
