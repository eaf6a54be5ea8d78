//! One WebSocket and one command, until either ends.
//!
//! Output goes from the command's bounded channel straight into the socket: a client that does not
//! read makes the command wait, and nothing is collected here. The reader of frames works beside
//! it. A client that leaves, or that is silent for too long, is gone: the command's events are
//! dropped, and with them its process tree, unless it was started to outlive its listeners.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, close_code};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use stacyvm_orchestrator::{AttachedExec, ExecControl, ExecEvent, RunningExec};
use stacyvm_types::{ErrorCode, ExecId};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::input::{Input, input};
use super::opening::Dialect;
use super::said::Said;
use super::voice::Voice;
use crate::error::Failure;

/// How often a client is asked whether it is there.
const PING: Duration = Duration::from_secs(20);
/// A client that says nothing for so long, not even that it is there, is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the first frame may take to come.
const FIRST: Duration = Duration::from_secs(15);
/// How long a client may take to answer a close. Until then what it still sends is read: unread
/// bytes would turn the end of the connection into a reset, which destroys our last words.
const LINGER: Duration = Duration::from_secs(2);
/// How long last words may take when the server stops.
const HASTE: Duration = Duration::from_secs(1);
/// Waiting events that go into one write.
const BATCH: usize = 8;
/// Complaints that wait to be said; more are dropped.
const COMPLAINTS: usize = 4;

/// What a conversation talks over.
pub(crate) trait Socket:
    Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin
{
}

impl<S> Socket for S where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin
{
}

/// A running command, started for this conversation or followed by it.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) exec_id: ExecId,
    pub(crate) pid: u32,
    pub(crate) events: mpsc::Receiver<ExecEvent>,
    pub(crate) control: mpsc::Sender<ExecControl>,
}

impl From<RunningExec> for Subject {
    fn from(exec: RunningExec) -> Self {
        Self {
            exec_id: ExecId(exec.exec_id),
            pid: exec.pid,
            events: exec.events,
            control: exec.control,
        }
    }
}

impl From<AttachedExec> for Subject {
    fn from(exec: AttachedExec) -> Self {
        Self {
            exec_id: exec.info.exec_id,
            pid: exec.info.pid,
            events: exec.events,
            control: exec.control,
        }
    }
}

/// A running command and how to talk about it.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) exec: Subject,
    pub(crate) voice: Voice,
    /// Input that came with the request, in the typed dialect.
    pub(crate) stdin: Bytes,
    /// Whether the client is told how much of its input was taken.
    pub(crate) acknowledge: bool,
}

/// Why a conversation is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// Everything was said, and the close too.
    Said,
    /// The client left.
    Gone,
    /// The server stops.
    Cut,
}

/// Lets a client and a command talk until one of them ends or `cut` resolves.
pub(crate) async fn converse(socket: impl Socket, talk: Talk, cut: impl Future<Output = ()>) {
    let (mut sink, mut stream) = socket.split();
    let mut cut = pin!(cut);
    let over = {
        let Subject {
            exec_id,
            pid,
            events,
            control,
        } = talk.exec;
        let (input, feeder, taken) = input();
        let (complain, complaints) = mpsc::channel(COMPLAINTS);
        let typed = talk.voice.dialect() != Dialect::Plain;
        let progress = Progress::default();
        let mut speaker = Speaker {
            progress: &progress,
            sink: &mut sink,
            voice: talk.voice,
            events,
            complaints,
            taken: talk.acknowledge.then_some(taken),
        };
        let listener = Listener {
            progress: &progress,
            stream: &mut stream,
            input: typed.then_some(input),
            control: control.clone(),
            complain,
        };
        let feeding = async {
            if typed {
                feeder.run(talk.stdin, control).await;
            }
            // The end of the input is not the end of the conversation.
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            over = speaker.speak(pid, exec_id) => over,
            () = listener.listen() => Over::Gone,
            () = cut.as_mut() => Over::Cut,
            never = feeding => match never {},
        }
    };
    tracing::debug!(?over, "conversation with a command is over");
    match over {
        Over::Said => tokio::select! {
            () = linger(&mut stream) => {}
            () = cut => {}
        },
        Over::Gone => {
            // It may have closed in due form, and waits for our own close.
            let _ = timeout(HASTE, sink.close()).await;
        }
        Over::Cut => {
            let words = Failure::new(ErrorCode::Unavailable, "the server is shutting down");
            let last = [
                Voice::failed(words),
                close(close_code::AWAY, "the server is shutting down"),
            ];
            let _ = timeout(HASTE, say(&mut sink, last)).await;
        }
    }
}

/// The first frame of a client that is worth reading; none when it has gone.
///
/// # Errors
/// What is wrong with what came, in words for a close frame.
pub(crate) async fn first_frame(
    socket: &mut impl Socket,
) -> Result<Option<Utf8Bytes>, &'static str> {
    let first = timeout(FIRST, async {
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

/// Refuses a client that does not speak the protocol.
pub(crate) async fn dismiss(socket: impl Socket, words: &'static str) {
    end(socket, [close(close_code::INVALID, words)]).await;
}

/// Tells a client why its command does not run.
pub(crate) async fn farewell(socket: impl Socket, failure: Failure) {
    let last = [Voice::failed(failure), close(close_code::NORMAL, "")];
    end(socket, last).await;
}

async fn end<const N: usize>(socket: impl Socket, last: [Message; N]) {
    let (mut sink, mut stream) = socket.split();
    let ending = async {
        if say(&mut sink, last).await.is_ok() {
            linger(&mut stream).await;
        }
    };
    // A client that does not read its last words has no use for them.
    let _ = timeout(LINGER, ending).await;
}

async fn say<const N: usize>(
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
async fn linger(stream: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin)) {
    let reading = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = timeout(LINGER, reading).await;
}

/// When the client last took something of what the command printed: a sign of life of one that
/// reads slowly, whose answers to pings stand behind all that.
#[derive(Debug)]
struct Progress(Mutex<Instant>);

impl Default for Progress {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Progress {
    fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn since(&self) -> Duration {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.elapsed()
    }
}

/// The server's half of a conversation.
struct Speaker<'a, S> {
    progress: &'a Progress,
    sink: &'a mut SplitSink<S, Message>,
    voice: Voice,
    events: mpsc::Receiver<ExecEvent>,
    complaints: mpsc::Receiver<Failure>,
    taken: Option<watch::Receiver<u64>>,
}

impl<S: Socket> Speaker<'_, S> {
    async fn speak(&mut self, pid: u32, exec_id: ExecId) -> Over {
        match self.say_all(pid, exec_id).await {
            Ok(()) => Over::Said,
            Err(_) => Over::Gone,
        }
    }

    async fn say_all(&mut self, pid: u32, exec_id: ExecId) -> Result<(), axum::Error> {
        let mut pings = interval_at(Instant::now() + PING, PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut frames: Vec<Message> = self.voice.started(pid, exec_id).into_iter().collect();
        let mut end = None;
        let mut output = false;
        loop {
            for frame in frames.drain(..) {
                self.sink.feed(frame).await?;
            }
            if let Some((code, words)) = end {
                return say(self.sink, [close(code, words)]).await;
            }
            self.sink.flush().await?;
            if std::mem::take(&mut output) {
                self.progress.made();
            }
            tokio::select! {
                biased;
                _ = pings.tick() => frames.push(Message::Ping(Bytes::new())),
                Some(failure) = self.complaints.recv() => frames.push(Voice::failed(failure)),
                bytes = news(&mut self.taken) => frames.push(self.voice.acknowledged(bytes)),
                event = self.events.recv() => {
                    output = true;
                    end = self.hear(event, &mut frames);
                }
            }
        }
    }

    /// Puts an event, and those that wait behind it, into words; the close when it was the last.
    fn hear(
        &mut self,
        event: Option<ExecEvent>,
        frames: &mut Vec<Message>,
    ) -> Option<(u16, &'static str)> {
        let Some(mut event) = event else {
            frames.push(Voice::failed(Failure::internal("the command was lost")));
            return Some((close_code::ERROR, "the command was lost"));
        };
        loop {
            if self.voice.event(event, frames) {
                return Some((close_code::NORMAL, ""));
            }
            if frames.len() >= BATCH {
                return None;
            }
            match self.events.try_recv() {
                Ok(next) => event = next,
                // Also the end of the channel: the next turn hears it.
                Err(_) => return None,
            }
        }
    }
}

/// The number of bytes taken, when it has changed.
async fn news(taken: &mut Option<watch::Receiver<u64>>) -> u64 {
    if let Some(receiver) = taken {
        if receiver.changed().await.is_ok() {
            return *receiver.borrow_and_update();
        }
        // The input has ended; this was its last word.
        *taken = None;
    }
    std::future::pending().await
}

/// The client's half.
struct Listener<'a, S> {
    progress: &'a Progress,
    stream: &'a mut SplitStream<S>,
    /// None in the dialect in which clients say nothing more.
    input: Option<Input>,
    control: mpsc::Sender<ExecControl>,
    complain: mpsc::Sender<Failure>,
}

impl<S: Socket> Listener<'_, S> {
    /// Does what the client says, until it is gone.
    async fn listen(mut self) {
        loop {
            let text = match timeout(SILENCE, self.stream.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
                Ok(Some(Ok(Message::Binary(_)))) => {
                    self.complain("binary frames are not understood");
                    continue;
                }
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => return,
                Err(_) if self.progress.since() < SILENCE => continue,
                Err(_) => {
                    tracing::debug!("a client of a command fell silent");
                    return;
                }
            };
            let Some(input) = &mut self.input else {
                continue;
            };
            let word = match Said::parse(text) {
                Ok(Said::Stdin(bytes)) => {
                    input.push(bytes).await;
                    continue;
                }
                Ok(Said::CloseStdin) => {
                    input.close();
                    continue;
                }
                Ok(Said::Resize(size)) => ExecControl::Resize(size),
                Ok(Said::Signal(signal)) => ExecControl::Signal(signal),
                Ok(Said::Nothing) => continue,
                Err(failure) => {
                    // One who complains about everything still hears some of it.
                    let _ = self.complain.try_send(failure);
                    continue;
                }
            };
            // A command that has just ended needs no word any more.
            let _ = self.control.send(word).await;
        }
    }

    fn complain(&self, words: &'static str) {
        let _ = self.complain.try_send(Failure::bad_request(words));
    }
}

#[cfg(test)]
mod tests;
