//! Commands in flight. A listener is always told an end, whatever becomes of the sandbox, its agent
//! or the server; a listener that stops listening ends the command.
//!
//! The deadline is the agent's to keep. The server only steps in when the agent does not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stacyvm_provider::ops::{ExecControl, ExecEvent, ExecExit, ExecSession, OpError};
use stacyvm_types::{
    EventData, EventType, ExecId, ExecResponse, ExitReason, GoDuration, OutputStream,
};
use tokio::sync::mpsc;
use tokio::time::{Instant as TokioInstant, sleep_until, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument;

use crate::command::Plan;
use crate::delivery::{EventSource, deliver};
use crate::error::Error;
use crate::metrics::Operation;
use crate::operation_error::{destroyed, not_startable, paused, public_error, silent};
use crate::registry::Entry;
use crate::state::OrchestratorState;

/// How long an agent may take to start a command.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after the deadline the server waits for the agent to have kept it.
const DEADLINE_MARGIN: Duration = Duration::from_secs(3);
/// How long after its own kill the server waits for the exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pieces of output between the sandbox and a slow listener.
const EVENT_QUEUE: usize = 8;
/// The largest piece of standard input.
const CHUNK_SIZE: usize = 64 * 1024;

/// A started command. Dropping `events` before the exit was read kills its whole process tree.
#[derive(Debug)]
pub struct RunningExec {
    /// Number of the exec, unique within its sandbox.
    pub exec_id: u64,
    /// Its process id inside the sandbox.
    pub pid: u32,
    /// Output, then always one exit; nothing follows.
    pub events: mpsc::Receiver<ExecEvent>,
    /// Its input and control. The request's `stdin`, when there was one, is fed already.
    pub control: mpsc::Sender<ExecControl>,
    /// Its deadline.
    pub timeout: Option<Duration>,
}

/// Starts a command in a running sandbox.
pub(crate) async fn start(
    state: &Arc<OrchestratorState>,
    entry: Arc<Entry>,
    plan: Plan,
    token: TaskTrackerToken,
) -> Result<Pump, Error> {
    let began = Instant::now();
    let ops = crate::handle::open(&entry).await?;
    let limit = plan.spec.timeout;
    let started = tokio::select! {
        biased;
        () = entry.ended.cancelled() => Err(destroyed()),
        // Dropping the request takes it back: it is not carried out when the sandbox goes on.
        () = entry.paused() => Err(paused(&entry)),
        started = timeout(START_TIMEOUT, ops.exec(plan.spec)) => started.unwrap_or_else(|_| {
            Err(silent())
        }),
    };
    let session = match started {
        Ok(session) => session,
        Err(error) => {
            if let Some(slot) = &entry.slot {
                slot.metrics.record(Operation::Exec, began.elapsed(), true);
            }
            let error = public_error(&entry, not_startable(error));
            // Without the message: it may name what the request brought.
            let data = EventData::none().with("reason", "not_started");
            state.events.of(&entry.facts, EventType::ExecFailed, data);
            return Err(error);
        }
    };
    let data = EventData::none().with("exec_id", named(session.exec_id));
    state.events.of(&entry.facts, EventType::ExecStarted, data);
    if let Some(stdin) = plan.stdin {
        let feeding = feed(session.control.clone(), stdin, plan.keep_stdin_open);
        state.lifetime.tasks.spawn(feeding.in_current_span());
    }
    let execs = &state.totals.active_execs;
    execs.fetch_add(1, Ordering::Relaxed);
    Ok(Pump {
        state: Arc::clone(state),
        entry,
        deadline: limit.and_then(|limit| TokioInstant::now().checked_add(limit + DEADLINE_MARGIN)),
        exec_id: session.exec_id,
        session: Some(session),
        limit,
        killed: false,
        ended: None,
        began,
        _token: token,
    })
}

/// Feeds standard input beside the output, so that neither waits for the other. Ends by itself
/// when the command no longer listens.
async fn feed(control: mpsc::Sender<ExecControl>, mut stdin: Bytes, keep_open: bool) {
    while !stdin.is_empty() {
        let piece = stdin.split_to(stdin.len().min(CHUNK_SIZE));
        if control.send(ExecControl::Stdin(piece)).await.is_err() {
            return;
        }
    }
    if !keep_open {
        let _ = control.send(ExecControl::CloseStdin).await;
    }
}

/// How a command came to its end, from the server's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The agent said so.
    Reported,
    /// Its connection broke without a word.
    Lost,
    /// The server gave up on it.
    Stuck,
    /// The sandbox is destroyed.
    Destroyed,
    /// The server stops.
    Shutdown,
}

/// One command in flight. Dropping it abandons the command.
#[derive(Debug)]
pub(crate) struct Pump {
    state: Arc<OrchestratorState>,
    entry: Arc<Entry>,
    exec_id: u64,
    session: Option<ExecSession>,
    limit: Option<Duration>,
    deadline: Option<TokioInstant>,
    killed: bool,
    ended: Option<Ended>,
    began: Instant,
    _token: TaskTrackerToken,
}

impl Pump {
    /// The next piece of output, or the exit; after the exit the same exit again.
    async fn next(&mut self) -> ExecEvent {
        loop {
            let Some(session) = &mut self.session else {
                return self.exit(Ended::Lost);
            };
            let deadline = self.deadline;
            let overdue = async move {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.entry.ended.cancelled() => return self.exit(Ended::Destroyed),
                () = self.state.lifetime.abort.cancelled() => return self.exit(Ended::Shutdown),
                event = session.events.recv() => match event {
                    Some(ExecEvent::Exit(exit)) => {
                        self.close(Ended::Reported, &exit);
                        return ExecEvent::Exit(exit);
                    }
                    Some(output @ ExecEvent::Output(..)) => return output,
                    // Only followers of a detached command are told these.
                    Some(ExecEvent::Resumed(_) | ExecEvent::End) => {}
                    None => {
                        tracing::warn!(sandbox = %self.entry.facts.id, "exec lost its agent");
                        return self.exit(Ended::Lost);
                    }
                },
                () = overdue => {
                    if self.killed {
                        tracing::warn!(sandbox = %self.entry.facts.id, "exec could not be killed by its agent");
                        return self.exit(Ended::Stuck);
                    }
                    self.killed = true;
                    self.deadline = Some(TokioInstant::now() + EXIT_TIMEOUT);
                    // A full queue belongs to an agent that no longer reads.
                    let _ = session.control.try_send(ExecControl::Kill);
                }
            }
        }
    }

    fn exit(&mut self, ended: Ended) -> ExecEvent {
        let reason = match ended {
            Ended::Stuck => ExitReason::Timeout,
            Ended::Destroyed | Ended::Lost => ExitReason::SandboxDestroyed,
            Ended::Shutdown | Ended::Reported => ExitReason::Signal,
        };
        let exit = ExecExit {
            exit_code: 137,
            signal: Some(9),
            reason,
            duration: self.began.elapsed(),
        };
        self.close(ended, &exit);
        ExecEvent::Exit(exit)
    }

    fn close(&mut self, ended: Ended, exit: &ExecExit) {
        if self.session.take().is_some() {
            self.ended = Some(ended);
            self.publish(ended, exit);
        }
    }

    /// Publishes how it ended.
    fn publish(&self, ended: Ended, exit: &ExecExit) {
        let other = match ended {
            Ended::Shutdown => Some("shutdown"),
            Ended::Lost => Some("agent_lost"),
            Ended::Reported | Ended::Stuck | Ended::Destroyed => None,
        };
        publish_end(&self.state, &self.entry, self.exec_id, exit, other);
    }
}

/// The name of an exec in events.
pub(crate) fn named(exec_id: u64) -> String {
    ExecId(exec_id).to_string()
}

/// Publishes how a command ended; `other` is a reason that is not the command's.
pub(crate) fn publish_end(
    state: &OrchestratorState,
    entry: &Entry,
    exec_id: u64,
    exit: &ExecExit,
    other: Option<&'static str>,
) {
    let publish = |kind, data| state.events.of(&entry.facts, kind, data);
    let data = EventData::none()
        .with("exec_id", named(exec_id))
        .with("exit_code", exit.exit_code)
        .with("duration", GoDuration::from(exit.duration).to_string());
    let reason = match (other, exit.reason) {
        (Some(other), _) => other,
        (None, ExitReason::Exit) => return publish(EventType::ExecCompleted, data),
        (None, ExitReason::Timeout) => return publish(EventType::ExecTimeout, data),
        (None, ExitReason::Signal) => "signal",
        (None, ExitReason::SandboxDestroyed) => "sandbox_destroyed",
        (None, ExitReason::Oom) => {
            let limit = EventData::none()
                .with("operation", "exec")
                .with("limit", "memory")
                .with("exec_id", named(exec_id));
            publish(EventType::ResourceLimit, limit);
            "oom"
        }
    };
    publish(EventType::ExecFailed, data.with("reason", reason));
}

impl Drop for Pump {
    fn drop(&mut self) {
        let execs = &self.state.totals.active_execs;
        execs.fetch_sub(1, Ordering::Relaxed);
        if self.ended.is_none() {
            let duration = GoDuration::from(self.began.elapsed()).to_string();
            let data = EventData::none()
                .with("exec_id", named(self.exec_id))
                .with("duration", duration)
                .with("reason", "abandoned");
            self.state
                .events
                .of(&self.entry.facts, EventType::ExecFailed, data);
        }
        let failed = self.ended != Some(Ended::Reported);
        if let Some(slot) = &self.entry.slot {
            slot.metrics
                .record(Operation::Exec, self.began.elapsed(), failed);
        }
    }
}

/// Hands a command's events to a listener of its own pace.
pub(crate) fn stream(state: &Arc<OrchestratorState>, pump: Pump) -> RunningExec {
    let session = pump.session.as_ref().expect("a fresh pump has a session");
    let (sender, events) = mpsc::channel(EVENT_QUEUE);
    let running = RunningExec {
        exec_id: session.exec_id,
        pid: session.pid,
        events,
        control: session.control.clone(),
        timeout: pump.limit,
    };
    state
        .lifetime
        .tasks
        .spawn(deliver(pump, sender).in_current_span());
    running
}

impl EventSource for Pump {
    async fn next(&mut self) -> Option<ExecEvent> {
        Some(Self::next(self).await)
    }

    async fn interrupted(&self, last: bool) {
        tokio::select! {
            () = self.entry.ended.cancelled(), if !last => {}
            () = self.state.lifetime.abort.cancelled(), if !last => {}
            else => std::future::pending().await,
        }
    }
}

/// Runs a command to its end and keeps what it wrote, up to `cap` bytes of each stream. What is
/// beyond is read and dropped, so the command never waits for room.
pub(crate) async fn capture(mut pump: Pump, cap: usize) -> Result<ExecResponse, Error> {
    let mut stdout = Captured::new(cap);
    let mut stderr = Captured::new(cap);
    let exit = loop {
        match pump.next().await {
            ExecEvent::Output(OutputStream::Stdout, bytes) => stdout.push(&bytes),
            ExecEvent::Output(OutputStream::Stderr, bytes) => stderr.push(&bytes),
            ExecEvent::Exit(exit) => break exit,
            // Only followers of a detached command are told these.
            ExecEvent::Resumed(_) | ExecEvent::End => {}
        }
    };
    match pump.ended {
        Some(Ended::Lost) => {
            let error = OpError::Gone("the connection to the agent broke".to_owned());
            return Err(public_error(&pump.entry, error));
        }
        Some(Ended::Shutdown) => return Err(Error::shutting_down()),
        _ => {}
    }
    if exit.reason == ExitReason::Timeout {
        let limit = GoDuration::from(pump.limit.unwrap_or(exit.duration));
        return Err(Error::Timeout(format!(
            "exec timeout: the command did not end within {limit} and was killed with everything it started"
        )));
    }
    let truncated = stdout.truncated || stderr.truncated;
    Ok(ExecResponse {
        exit_code: exit.exit_code,
        stdout: stdout.into_text(),
        stderr: stderr.into_text(),
        duration: GoDuration::from(exit.duration).to_string(),
        truncated,
        reason: (exit.reason != ExitReason::Exit).then_some(exit.reason),
    })
}

#[derive(Debug)]
struct Captured {
    bytes: Vec<u8>,
    cap: usize,
    truncated: bool,
}

impl Captured {
    fn new(cap: usize) -> Self {
        Self {
            bytes: Vec::new(),
            cap,
            truncated: false,
        }
    }

    fn push(&mut self, piece: &[u8]) {
        let room = self.cap - self.bytes.len();
        self.bytes
            .extend_from_slice(&piece[..piece.len().min(room)]);
        self.truncated |= piece.len() > room;
    }

    fn into_text(mut self) -> String {
        if self.truncated {
            self.cut_partial_character();
        }
        match String::from_utf8(self.bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// A character that the cap cut in two is no invalid output of the command's.
    fn cut_partial_character(&mut self) {
        let from = self.bytes.len().saturating_sub(3);
        let last = self.bytes[from..]
            .iter()
            .rposition(|byte| byte & 0xC0 != 0x80);
        let Some(lead) = last.map(|last| from + last) else {
            return;
        };
        let unfinished = |error: std::str::Utf8Error| error.error_len().is_none();
        if std::str::from_utf8(&self.bytes[lead..]).is_err_and(unfinished) {
            self.bytes.truncate(lead);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(cap: usize, pieces: &[&[u8]]) -> (String, bool) {
        let mut captured = Captured::new(cap);
        for piece in pieces {
            captured.push(piece);
        }
        let truncated = captured.truncated;
        (captured.into_text(), truncated)
    }

    #[test]
    fn output_is_kept_up_to_the_cap() {
        assert_eq!(captured(5, &[b"abc", b"de"]), ("abcde".to_owned(), false));
        assert_eq!(captured(5, &[b"abc", b"def"]), ("abcde".to_owned(), true));
        assert_eq!(captured(0, &[b"a"]), (String::new(), true));
    }

    #[test]
    fn invalid_bytes_are_replaced_and_a_cut_character_is_left_out() {
        assert_eq!(captured(9, &[b"a\xFFb"]), ("a\u{FFFD}b".to_owned(), false));
        assert_eq!(captured(9, &[b"a\xE2\x82"]).0, "a\u{FFFD}");
        for cap in 1..=3 {
            assert_eq!(captured(cap, &["a€".as_bytes()]), ("a".to_owned(), true));
        }
        for cap in 1..=4 {
            assert_eq!(captured(cap, &["a😀".as_bytes()]), ("a".to_owned(), true));
        }
        assert_eq!(captured(3, &["€€".as_bytes()]), ("€".to_owned(), true));
        assert_eq!(
            captured(2, &[b"\x80\x80\x80"]),
            ("\u{FFFD}\u{FFFD}".to_owned(), true)
        );
    }
}
