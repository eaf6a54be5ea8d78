//! One command from its request to its last word.
//!
//! Owns the order of things: output is delivered before the exit, and the exit is told when the
//! command's own process has been reaped, whoever still holds its pipes. What such survivors print
//! later is drained to the log, so that they neither block nor die of a broken pipe.

mod start;
mod streams;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitStatus, kill_process_group};
use stacyvm_proto::message::{
    Answer, Code, Control, Exec, Exit, ExitCause, Reply, Started, control,
};
use stacyvm_proto::mux::{Event, Receiver, Sender, Stream};
use stacyvm_proto::{DATA, STDERR};
use tokio::sync::oneshot;

use crate::agent::Agent;
use crate::failure::{failure, reply};
use crate::pty;
use crate::tree::Tree;
use start::NotStarted;
use streams::{Input, Output};

/// Runs a command for the peer at the other end of `stream`.
pub(crate) async fn serve(agent: Arc<Agent>, exec: Exec, stream: Stream) {
    let begin = Instant::now();
    let number = agent.next_exec();
    let oom_before = agent.oom_kills();
    let started = if agent.is_ending() {
        Err(failure(Code::Gone, "the sandbox is ending").into())
    } else {
        start::start(&agent, &exec, number)
    };
    let sender = stream.sender;
    // A peer that is gone needs no answer: every send that fails here says just that.
    match started {
        Err(NotStarted::Refused(refused)) => {
            let _ = sender.last_message(&reply(Answer::Failure(refused))).await;
        }
        Err(NotStarted::NoProgram { exit_code, message }) => {
            let told = told(number, 0);
            let _ = sender.message(&told).await;
            let channel = if exec.tty.is_some() { DATA } else { STDERR };
            let _ = sender.send(channel, message.into()).await;
            let exit = Exit {
                exit_code,
                signal: None,
                cause: ExitCause::Exit.into(),
                duration_nanos: nanos(begin.elapsed()),
            };
            let _ = sender.last_message(&reply(Answer::Exit(exit))).await;
        }
        Ok(child) => {
            let attached = sender.message(&told(number, child.pid)).await.is_ok();
            let exited = child.exited;
            let running = Running {
                agent,
                begin,
                oom_before,
                pid: child.pid,
                tree: child.tree,
                input: child.input,
                outputs: child.outputs,
                survive: exec.survive,
                kill_orphans: exec.kill_orphans,
                sender,
                attached,
            };
            let deadline = exec
                .timeout_micros
                .and_then(|micros| begin.checked_add(Duration::from_micros(micros)));
            running.follow(stream.receiver, exited, deadline).await;
        }
    }
}

fn told(exec_id: u64, pid: i32) -> Reply {
    reply(Answer::Started(Started {
        exec_id,
        pid: pid.unsigned_abs(),
    }))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A command under way.
struct Running {
    agent: Arc<Agent>,
    begin: Instant,
    oom_before: u64,
    pid: i32,
    tree: Tree,
    input: Input,
    /// Standard output and error, or the terminal alone.
    outputs: [Option<Output>; 2],
    survive: bool,
    kill_orphans: bool,
    sender: Sender,
    /// Whether the peer still listens.
    attached: bool,
}

impl Running {
    async fn follow(
        mut self,
        mut receiver: Receiver,
        mut exited: oneshot::Receiver<WaitStatus>,
        deadline: Option<Instant>,
    ) {
        if !self.attached {
            self.peer_gone().await;
        }
        let mut timed_out = false;
        let timeout = tokio::time::sleep_until(match deadline {
            Some(deadline) => deadline.into(),
            None => tokio::time::Instant::now(),
        });
        tokio::pin!(timeout);
        let status = loop {
            let [first, second] = &mut self.outputs;
            let sender = self.attached.then_some(&self.sender);
            tokio::select! {
                biased;
                status = &mut exited => break status.ok(),
                () = &mut timeout, if deadline.is_some() && !timed_out => {
                    timed_out = true;
                    self.tree.kill().await;
                }
                event = receiver.receive(), if self.attached => self.heed(&receiver, event).await,
                length = self.input.feed(), if self.input.wants() => {
                    receiver.release(DATA, length);
                }
                more = pump(&self.agent, first, sender), if first.is_some() => {
                    if !more { *first = None; }
                }
                more = pump(&self.agent, second, sender), if second.is_some() => {
                    if !more { *second = None; }
                }
            }
        };
        let exit = self.exit(status, timed_out);
        if self.kill_orphans || timed_out {
            self.tree.kill().await;
        }
        self.input = Input::None;
        self.deliver_rest().await;
        if self.attached {
            // The peer may have gone in the very last moment.
            let _ = self.sender.last_message(&reply(Answer::Exit(exit))).await;
        }
        for output in self.outputs.into_iter().flatten() {
            tokio::spawn(output.drain(self.agent.clone()));
        }
    }

    /// Delivers what stood in the pipes when the command ended; what comes later is not its word.
    async fn deliver_rest(&mut self) {
        for slot in &mut self.outputs {
            let Some(output) = slot else { continue };
            let sender = self.attached.then_some(&self.sender);
            if !output.deliver_rest(&self.agent, sender).await {
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
        let perhaps_oom = signal == Some(Signal::KILL.as_raw()) || code == 137;
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
            exit_code: if timed_out { 137 } else { code },
            signal: if timed_out {
                Some(Signal::KILL.as_raw())
            } else {
                signal
            },
            cause: cause.into(),
            duration_nanos: nanos(self.begin.elapsed()),
        }
    }

    async fn peer_gone(&mut self) {
        self.attached = false;
        if !self.survive {
            self.tree.kill().await;
        }
    }

    /// Does what the peer says.
    async fn heed(&mut self, receiver: &Receiver, event: Event) {
        match event {
            Event::Data(DATA, bytes) => {
                if let Some(unused) = self.input.push(bytes) {
                    receiver.release(DATA, unused);
                }
            }
            Event::Data(channel, bytes) => receiver.release(channel, bytes.len()),
            Event::Finished(DATA) => self.input.finish(),
            Event::Finished(_) => {}
            Event::Message(message) => {
                let control: Option<Control> = prost::Message::decode(message).ok();
                match control.and_then(|control| control.control) {
                    Some(control::Control::Resize(size)) => {
                        if let Some(terminal) = self.input.terminal() {
                            // A size that the kernel refuses changes nothing.
                            let _ = pty::resize(terminal, size);
                        }
                    }
                    Some(control::Control::Signal(signal)) => self.signal(signal.number),
                    Some(control::Control::Kill(_)) => self.tree.kill().await,
                    None => {}
                }
            }
            Event::Closed(_) => self.peer_gone().await,
        }
    }

    fn signal(&self, number: i32) {
        // Only while the process has not been reaped is its number, and so its group's, its own.
        let reaped = self.tree.leader.load(std::sync::atomic::Ordering::Acquire) == 0;
        if !reaped
            && let Some(signal) = Signal::from_named_raw(number)
            && let Some(group) = Pid::from_raw(self.pid)
        {
            // The group may have ended a moment ago.
            let _ = kill_process_group(group, signal);
        }
    }
}

/// Passes one piece of output on; `false` at its end.
async fn pump(agent: &Agent, output: &mut Option<Output>, sender: Option<&Sender>) -> bool {
    match output {
        Some(output) => output.pass_on(agent, sender).await,
        None => std::future::pending().await,
    }
}
