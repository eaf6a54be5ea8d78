//! One WebSocket and one command, until either ends.
//!
//! Output goes from the command's bounded channel straight into the socket: a client that does not
//! read makes the command wait, and nothing is collected here. The reader of frames works beside
//! it. When the client leaves or is silent for too long, the command's events are dropped, and with
//! them its process tree, unless the command is detached.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use axum::extract::ws::{Message, Utf8Bytes, close_code};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use stacyvm_orchestrator::{AttachedExec, ExecControl, ExecEvent, RunningExec};
use stacyvm_types::{ErrorCode, ExecId};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::frame_encoder::FrameEncoder;
use super::input::input;
use super::progress::Progress;
use super::reader::SocketReader;
use super::socket::{CLOSE_TIMEOUT, Socket, await_client_close, close, send_frames};
use super::start_frame::Dialect;
use super::writer::SocketWriter;
use crate::error::Failure;

/// How long the first frame may take to come.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the last frames may take when the server stops.
const SHUTDOWN_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Failures that wait to be reported; more are dropped.
const MAX_PENDING_FAILURES: usize = 4;

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
            failures: report,
        };
        let feeding = async {
            if typed {
                feeder.run(session.stdin, control).await;
            }
            // The end of the input is not the end of the session.
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            written = writer.run(pid, exec_id) => match written {
                Ok(()) => SessionEnd::Finished,
                Err(_) => SessionEnd::ClientGone,
            },
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

#[cfg(test)]
mod tests;
