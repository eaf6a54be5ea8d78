//! Running a command: from an `ExecSpec` to an `ExecSession`.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use stacyvm_proto::message::{self, Answer, Kill, Request, SendSignal, TerminalSize, control};
use stacyvm_proto::mux::{Event, Receiver, Sender};
use stacyvm_proto::{DATA, STDERR};
use stacyvm_types::OutputStream;
use tokio::sync::mpsc;

use crate::convert::exec_exit;
use crate::files::{CHUNK_SIZE, decode};
use crate::unary::{self, unexpected};
use crate::{
    Agent, Credentials, ExecControl, ExecEvent, ExecSession, ExecSpec, OnDisconnect, OpError,
    TtySize,
};

/// How many events wait for a reader, beside the stream's own window.
pub(crate) const EVENT_QUEUE: usize = 4;
/// How many controls wait for the agent.
pub(crate) const CONTROL_QUEUE: usize = 8;

impl Agent {
    /// Starts a command.
    ///
    /// # Errors
    /// `Invalid` for an empty command or a missing workdir, `NotFound` for an unknown user,
    /// `Limit` when the sandbox may have no more processes, `Gone` when the connection is lost.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, OpError> {
        let queue_end = match spec.on_disconnect {
            OnDisconnect::Kill => QueueEnd::ClosesInput,
            OnDisconnect::Detach => QueueEnd::LeavesInput,
        };
        let stream = self.open(Request::Exec(request(spec)))?;
        let sender = stream.sender;
        let mut receiver = stream.receiver;
        let Answer::Started(started) = unary::next(&mut receiver).await? else {
            return Err(unexpected());
        };
        let (event_queue, events) = mpsc::channel(EVENT_QUEUE);
        let (control, controls) = mpsc::channel(CONTROL_QUEUE);
        tokio::spawn(async move {
            let events = pass_events(&mut receiver, event_queue);
            run_both(events, pass_controls(sender, controls, queue_end)).await;
        });
        Ok(ExecSession {
            exec_id: started.exec_id,
            pid: started.pid,
            events,
            control,
        })
    }
}

/// Runs both directions at once, until the command has ended or the reader is gone. The end of the
/// controls does not end it.
pub(crate) async fn run_both(events: impl Future<Output = ()>, controls: impl Future<Output = ()>) {
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
        detached: spec.on_disconnect == OnDisconnect::Detach,
        kill_orphans: spec.kill_orphans,
    }
}

fn size(size: TtySize) -> TerminalSize {
    TerminalSize {
        cols: size.cols.into(),
        rows: size.rows.into(),
    }
}

/// Hands on what the agent says of one command, until its last event or until nobody reads.
pub(crate) async fn pass_events(receiver: &mut Receiver, queue: mpsc::Sender<ExecEvent>) {
    loop {
        let event = tokio::select! {
            event = receiver.receive() => event,
            () = queue.closed() => return,
        };
        let event = match event {
            Event::Data(channel, bytes) => {
                let length = bytes.len();
                if !pass_output(&queue, channel, bytes).await {
                    return;
                }
                receiver.release(channel, length);
                continue;
            }
            Event::Message(message) => match decode(message) {
                Some(Answer::Resumed(resumed)) => ExecEvent::Resumed(resumed.offset),
                Some(Answer::Done(_)) => ExecEvent::End,
                Some(Answer::Exit(exit)) => ExecEvent::Exit(exec_exit(exit)),
                _ => continue,
            },
            Event::Finished(_) => continue,
            // Without an exit the reader knows that the connection was lost.
            Event::Closed(_) => return,
        };
        let last = event.is_last();
        // The reader may have gone.
        if queue.send(event).await.is_err() || last {
            return;
        }
    }
}

/// Hands output on in chunks of a bounded size; false when nobody reads any more.
async fn pass_output(queue: &mpsc::Sender<ExecEvent>, channel: u8, mut bytes: Bytes) -> bool {
    let stream = match channel {
        STDERR => OutputStream::Stderr,
        _ => OutputStream::Stdout,
    };
    while !bytes.is_empty() {
        let chunk = bytes.split_to(bytes.len().min(CHUNK_SIZE));
        if queue.send(ExecEvent::Output(stream, chunk)).await.is_err() {
            return false;
        }
    }
    true
}

/// The message for a control; empty for input, which is sent as data.
pub(crate) fn control_message(control: &ExecControl) -> message::Control {
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

/// What happens to a command's input when its last control sender is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueEnd {
    /// The command belongs to this caller alone: its input ends.
    ClosesInput,
    /// Other streams may still send input.
    LeavesInput,
}

/// Sends input and controls to the agent. Input waits for credit without blocking the other controls,
/// so a resize or a signal reaches a command that does not read, while the bounded queues have room.
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
                ExecControl::Resize(_) | ExecControl::Signal(_) | ExecControl::Kill => {
                    control_message(&item)
                }
            };
            if sender.message(&message).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(feeding, reading);
}
