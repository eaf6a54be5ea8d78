//! A running command: its input, output, controls and timeout, until its exit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitStatus, kill_process_group};
use stacyvm_proto::DATA;
use stacyvm_proto::message::{Answer, Control, Exit, ExitCause, control};
use stacyvm_proto::mux::{Event, Receiver, Stream};
use tokio::sync::oneshot;

use super::input::Input;
use super::output::{Output, Sink};
use super::table::{ExecEntry, Inbox, InputChunk};
use crate::agent::Agent;
use crate::pty;
use crate::replies::reply;
use crate::tree::Tree;

/// The exit code after a kill.
const KILLED: i32 = 137;

/// The stream that started a command which ends with it.
pub(super) struct Peer {
    pub(super) stream: Stream,
    /// Whether the peer still listens.
    pub(super) attached: bool,
}

/// A running command.
pub(super) struct Running {
    pub(super) agent: Arc<Agent>,
    pub(super) entry: Arc<ExecEntry>,
    pub(super) begin: Instant,
    /// How many processes the memory limit had killed before the start.
    pub(super) oom_before: u64,
    pub(super) pid: i32,
    pub(super) tree: Tree,
    pub(super) input: Input,
    pub(super) inbox: Inbox,
    /// Standard output and error, or the terminal alone.
    pub(super) outputs: [Option<Output>; 2],
    pub(super) kill_orphans: bool,
}

impl Running {
    /// Serves the command until its end. A detached command has no peer.
    pub(super) async fn run(
        mut self,
        mut peer: Option<Peer>,
        mut exited: oneshot::Receiver<WaitStatus>,
        deadline: Option<Instant>,
    ) {
        if peer.as_ref().is_some_and(|peer| !peer.attached) {
            self.tree.kill().await;
        }
        let mut timed_out = false;
        let timeout = tokio::time::sleep_until(match deadline {
            Some(deadline) => deadline.into(),
            None => tokio::time::Instant::now(),
        });
        tokio::pin!(timeout);
        let status = loop {
            if self.input.is_closed() {
                self.inbox.input.close();
            }
            let [first, second] = &mut self.outputs;
            let (sink, receiver) = sink_and_receiver(&self.entry, &mut peer);
            tokio::select! {
                biased;
                status = &mut exited => break status.ok(),
                () = &mut timeout, if deadline.is_some() && !timed_out => {
                    timed_out = true;
                    self.tree.kill().await;
                }
                event = receive(receiver) => self.handle_event(&mut peer, event).await,
                control = self.inbox.controls.recv() => {
                    if let Some(control) = control {
                        self.apply_control(control).await;
                    }
                }
                // Input from other streams waits until the command has taken all earlier input.
                chunk = self.inbox.input.recv(), if !self.input.is_closed() && !self.input.wants() => {
                    match chunk {
                        Some(InputChunk::Bytes(bytes)) => drop(self.input.push(bytes)),
                        Some(InputChunk::End) => self.input.finish(),
                        None => {}
                    }
                }
                length = self.input.feed(), if self.input.wants() => {
                    if let Some(peer) = &peer {
                        peer.stream.receiver.release(DATA, length);
                    }
                }
                more = forward(&self.agent, first, sink), if first.is_some() => {
                    if !more { *first = None; }
                }
                more = forward(&self.agent, second, sink), if second.is_some() => {
                    if !more { *second = None; }
                }
            }
        };
        let exit = self.exit(status, timed_out);
        if self.kill_orphans || timed_out {
            self.tree.kill().await;
        }
        self.finish(peer, exit).await;
    }

    /// Delivers the rest of the output, then the exit.
    async fn finish(mut self, mut peer: Option<Peer>, exit: Exit) {
        self.input = Input::None;
        self.inbox.input.close();
        self.forward_rest(&mut peer).await;
        self.entry.record.finish(exit);
        self.agent.execs.ended(&self.entry);
        if let Some(peer) = peer.filter(|peer| peer.attached) {
            // The peer may be gone by now.
            let answer = reply(Answer::Exit(exit));
            let _ = peer.stream.sender.last_message(&answer).await;
        }
        for output in self.outputs.into_iter().flatten() {
            tokio::spawn(output.drain(self.agent.clone()));
        }
    }

    /// Delivers what was in the pipes when the command ended. Later output is not the command's own.
    async fn forward_rest(&mut self, peer: &mut Option<Peer>) {
        for slot in &mut self.outputs {
            let Some(output) = slot else { continue };
            let (sink, _) = sink_and_receiver(&self.entry, peer);
            if !output.forward_rest(&self.agent, sink).await {
                *slot = None;
            }
        }
    }

    fn exit(&self, status: Option<WaitStatus>, timed_out: bool) -> Exit {
        let signal = status.and_then(WaitStatus::terminating_signal);
        let code = match (status.and_then(WaitStatus::exit_status), signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 128,
        };
        let perhaps_oom = signal == Some(Signal::KILL.as_raw()) || code == KILLED;
        let cause = if timed_out {
            ExitCause::Timeout
        } else if self.agent.is_ending() {
            ExitCause::Shutdown
        } else if perhaps_oom && self.agent.oom_kills() > self.oom_before {
            ExitCause::Oom
        } else if signal.is_some() {
            ExitCause::Signal
        } else {
            ExitCause::Exit
        };
        Exit {
            exit_code: if timed_out { KILLED } else { code },
            signal: if timed_out {
                Some(Signal::KILL.as_raw())
            } else {
                signal
            },
            cause: cause.into(),
            duration_nanos: nanos(self.begin.elapsed()),
        }
    }

    /// Handles what the peer sent.
    async fn handle_event(&mut self, peer: &mut Option<Peer>, event: Event) {
        let Some(peer) = peer else { return };
        match event {
            Event::Data(DATA, bytes) => {
                if let Some(unused) = self.input.push(bytes) {
                    peer.stream.receiver.release(DATA, unused);
                }
            }
            Event::Data(channel, bytes) => peer.stream.receiver.release(channel, bytes.len()),
            Event::Finished(DATA) => self.input.finish(),
            Event::Finished(_) => {}
            Event::Message(message) => {
                let control: Option<Control> = prost::Message::decode(message).ok();
                if let Some(control) = control.and_then(|control| control.control) {
                    self.apply_control(control).await;
                }
            }
            Event::Closed(_) => {
                peer.attached = false;
                self.tree.kill().await;
            }
        }
    }

    async fn apply_control(&mut self, control: control::Control) {
        match control {
            control::Control::Resize(size) => {
                if let Some(terminal) = self.input.terminal() {
                    // A size that the kernel refuses changes nothing.
                    let _ = pty::resize(terminal, size);
                }
            }
            control::Control::Signal(signal) => self.signal(signal.number),
            control::Control::Kill(_) => self.tree.kill().await,
        }
    }

    fn signal(&self, number: i32) {
        // Once the process has been reaped, another process group may have its number.
        let reaped = self.tree.leader.load(Ordering::Acquire) == 0;
        if !reaped
            && let Some(signal) = Signal::from_named_raw(number)
            && let Some(group) = Pid::from_raw(self.pid)
        {
            // The group may have ended a moment ago.
            let _ = kill_process_group(group, signal);
        }
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Where output goes, and where the peer's events come from.
fn sink_and_receiver<'a>(
    entry: &'a ExecEntry,
    peer: &'a mut Option<Peer>,
) -> (Sink<'a>, Option<&'a mut Receiver>) {
    match peer {
        None => (Sink::Record(&entry.record), None),
        Some(peer) if peer.attached => {
            let Stream { sender, receiver } = &mut peer.stream;
            (Sink::Peer(sender), Some(receiver))
        }
        Some(_) => (Sink::Discard, None),
    }
}

async fn receive(receiver: Option<&mut Receiver>) -> Event {
    match receiver {
        Some(receiver) => receiver.receive().await,
        None => std::future::pending().await,
    }
}

/// Forwards one chunk of output; `false` at its end.
async fn forward(agent: &Agent, output: &mut Option<Output>, sink: Sink<'_>) -> bool {
    match output {
        Some(output) => output.forward(agent, sink).await,
        None => std::future::pending().await,
    }
}
