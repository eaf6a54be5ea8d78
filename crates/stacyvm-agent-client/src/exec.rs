//! Commands: from a spec to a session.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use stacyvm_proto::message::{self, Answer, Kill, Request, SendSignal, TerminalSize, control};
use stacyvm_proto::mux::{Event, Receiver, Sender};
use stacyvm_proto::{DATA, STDERR};
use stacyvm_types::OutputStream;
use tokio::sync::mpsc;

use crate::convert::exec_exit;
use crate::files::{PIECE, decode};
use crate::unary::{self, unexpected};
use crate::{
    Agent, Credentials, ExecControl, ExecEvent, ExecSession, ExecSpec, OnDisconnect, OpError,
    TtySize,
};

/// Events that wait for a reader, beside the stream's own window.
pub(crate) const EVENTS: usize = 4;
/// Controls that wait for the agent.
pub(crate) const CONTROLS: usize = 8;

impl Agent {
    /// Starts a command.
    ///
    /// # Errors
    /// `Invalid` for an empty command or a missing workdir, `NotFound` for an unknown user,
    /// `Limit` when the sandbox may have no more processes, `Gone` when the connection is lost.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, OpError> {
        let queue_end = match spec.on_disconnect {
            OnDisconnect::Kill => QueueEnd::ClosesInput,
            OnDisconnect::Survive => QueueEnd::LeavesInput,
        };
        let stream = self.open(Request::Exec(request(spec)))?;
        let sender = stream.sender;
        let mut receiver = stream.receiver;
        let Answer::Started(started) = unary::next(&mut receiver).await? else {
            return Err(unexpected());
        };
        let (event_queue, events) = mpsc::channel(EVENTS);
        let (control, controls) = mpsc::channel(CONTROLS);
        tokio::spawn(async move {
            let events = pass_events(&mut receiver, event_queue);
            talk(events, pass_controls(sender, controls, queue_end)).await;
        });
        Ok(ExecSession {
            exec_id: started.exec_id,
            pid: started.pid,
            events,
            control,
        })
    }
}

/// Both ways at once: the command's end, or the reader's, ends it; the last control does not.
pub(crate) async fn talk(events: impl Future<Output = ()>, controls: impl Future<Output = ()>) {
    tokio::select! {
        () = events => {}
        () = async { controls.await; std::future::pending().await } => {}
    }
}

fn request(spec: ExecSpec) -> message::Exec {
    message::Exec {
        argv: spec.argv,
        env: spec.env,
        workdir: spec.workdir,
        user: match spec.user {
            Credentials::Default => None,
            Credentials::User(user) => Some(user),
        },
        stdin: spec.stdin,
        tty: spec.tty.map(size),
        timeout_micros: spec
            .timeout
            .map(|timeout| u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX)),
        survive: spec.on_disconnect == OnDisconnect::Survive,
        kill_orphans: spec.kill_orphans,
    }
}

fn size(size: TtySize) -> TerminalSize {
    TerminalSize {
        cols: size.cols.into(),
        rows: size.rows.into(),
    }
}

async fn pass_events(receiver: &mut Receiver, queue: mpsc::Sender<ExecEvent>) {
    loop {
        let event = tokio::select! {
            event = receiver.receive() => event,
            () = queue.closed() => return,
        };
        match event {
            Event::Data(channel, mut bytes) => {
                let stream = match channel {
                    STDERR => OutputStream::Stderr,
                    _ => OutputStream::Stdout,
                };
                let length = bytes.len();
                while !bytes.is_empty() {
                    let piece: Bytes = bytes.split_to(bytes.len().min(PIECE));
                    let sent = queue.send(ExecEvent::Output(stream, piece)).await;
                    if sent.is_err() {
                        return;
                    }
                }
                receiver.release(channel, length);
            }
            Event::Message(message) => {
                if let Some(Answer::Exit(exit)) = decode(message) {
                    // Nobody may be left to hear it.
                    let _ = queue.send(ExecEvent::Exit(exec_exit(exit))).await;
                    return;
                }
            }
            Event::Finished(_) => {}
            // Without an exit the reader knows that the connection was lost.
            Event::Closed(_) => return,
        }
    }
}

/// A control as a message; empty for input, which is data.
pub(crate) fn word(control: &ExecControl) -> message::Control {
    let control = match control {
        ExecControl::Resize(new) => Some(control::Control::Resize(size(*new))),
        ExecControl::Signal(signal) => {
            Some(control::Control::Signal(SendSignal { number: signal.0 }))
        }
        ExecControl::Kill => Some(control::Control::Kill(Kill {})),
        ExecControl::Stdin(_) | ExecControl::CloseStdin => None,
    };
    message::Control { control }
}

/// What it means when nobody is left to give controls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueEnd {
    /// The command was this caller's alone: its input ends.
    ClosesInput,
    /// Others may still feed it.
    LeavesInput,
}

/// Input waits for credit beside the other controls, so a resize or a signal reaches a command that
/// does not read for as long as the bounded queues have room.
pub(crate) async fn pass_controls(
    sender: Sender,
    mut controls: mpsc::Receiver<ExecControl>,
    queue_end: QueueEnd,
) {
    let (input, mut inputs) = mpsc::channel::<Bytes>(1);
    let close = AtomicBool::new(queue_end == QueueEnd::ClosesInput);
    let feeding = async {
        while let Some(bytes) = inputs.recv().await {
            if sender.send(DATA, bytes).await.is_err() {
                return;
            }
        }
        if close.load(Ordering::Relaxed) {
            // The stream may have ended already.
            let _ = sender.finish(DATA);
        }
    };
    let reading = async {
        let mut input = Some(input);
        while let Some(item) = controls.recv().await {
            let message = match item {
                ExecControl::Stdin(bytes) => {
                    if let Some(input) = &input {
                        // An ended stream takes no input; the session's end tells the caller.
                        let _ = input.send(bytes).await;
                    }
                    continue;
                }
                ExecControl::CloseStdin => {
                    close.store(true, Ordering::Relaxed);
                    input = None;
                    continue;
                }
                ExecControl::Resize(_) | ExecControl::Signal(_) | ExecControl::Kill => word(&item),
            };
            if sender.message(&message).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(feeding, reading);
}
