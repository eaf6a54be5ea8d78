//! One command from its request to its last word.
//!
//! Owns the order of things: output is delivered before the exit, and the exit is told when the
//! command's own process has been reaped, whoever still holds its pipes. What such survivors print
//! later is drained to the log, so that they neither block nor die of a broken pipe.
//!
//! A command that may outlive its stream is kept: it writes to a record, and the stream that
//! started it is the first of those that follow the record.

pub(crate) mod attach;
mod record;
mod start;
mod streams;
pub(crate) mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitStatus, kill_process_group};
use stacyvm_proto::message::{
    Answer, Attach, Code, Control, Exec, Exit, ExitCause, Reply, Started, control,
};
use stacyvm_proto::mux::{Event, Receiver, Stream};
use stacyvm_proto::{DATA, STDERR};
use tokio::sync::oneshot;

use crate::agent::Agent;
use crate::failure::{failure, reply};
use crate::pty;
use crate::tree::Tree;
use start::NotStarted;
use streams::{Input, Output, Sink};
use table::{Known, Piece, Told};

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
    let (known, running) = match started {
        Err(NotStarted::Refused(refused)) => {
            // A peer that is gone needs no answer: every send that fails here says just that.
            let answer = reply(Answer::Failure(refused));
            let _ = stream.sender.last_message(&answer).await;
            return;
        }
        Err(NotStarted::NoProgram { exit_code, message }) => {
            let (known, _) = agent.execs.add(number, &exec, 0);
            let channel = if exec.tty.is_some() { DATA } else { STDERR };
            let exit = Exit {
                exit_code,
                signal: None,
                cause: ExitCause::Exit.into(),
                duration_nanos: nanos(begin.elapsed()),
            };
            if !exec.survive {
                agent.execs.ended(&known);
                let sender = stream.sender;
                let _ = sender.message(&told(number, 0)).await;
                let _ = sender.send(channel, message.into()).await;
                let _ = sender.last_message(&reply(Answer::Exit(exit))).await;
                return;
            }
            known.record.append(channel, message.as_bytes());
            known.record.finish(exit);
            agent.execs.ended(&known);
            (known, None)
        }
        Ok(child) => {
            let (known, told) = agent.execs.add(number, &exec, child.pid);
            let exited = child.exited;
            let running = Running {
                agent,
                known: known.clone(),
                begin,
                oom_before,
                pid: child.pid,
                tree: child.tree,
                input: child.input,
                told,
                outputs: child.outputs,
                kill_orphans: exec.kill_orphans,
            };
            let deadline = exec
                .timeout_micros
                .and_then(|micros| begin.checked_add(Duration::from_micros(micros)));
            if !exec.survive {
                let pid = running.pid;
                let attached = stream
                    .sender
                    .message(&self::told(number, pid))
                    .await
                    .is_ok();
                let peer = Peer { stream, attached };
                running.follow(Some(peer), exited, deadline).await;
                return;
            }
            (known, Some(running.follow(None, exited, deadline)))
        }
    };
    let pid = known.pid();
    if let Some(running) = running {
        tokio::spawn(running);
    }
    if stream.sender.message(&told(number, pid)).await.is_ok() {
        let all = Attach {
            exec_id: number,
            follow: true,
            ..Attach::default()
        };
        let _ = attach::follow(&known, all, stream).await;
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

/// The stream that started a command which ends with it.
struct Peer {
    stream: Stream,
    /// Whether it still listens.
    attached: bool,
}

/// A command under way.
struct Running {
    agent: Arc<Agent>,
    known: Arc<Known>,
    begin: Instant,
    oom_before: u64,
    pid: i32,
    tree: Tree,
    input: Input,
    told: Told,
    /// Standard output and error, or the terminal alone.
    outputs: [Option<Output>; 2],
    kill_orphans: bool,
}

impl Running {
    /// Looks after the command until its end; without a peer it is a kept one.
    async fn follow(
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
                self.told.input.close();
            }
            let [first, second] = &mut self.outputs;
            let (sink, receiver) = ends(&self.known, &mut peer);
            tokio::select! {
                biased;
                status = &mut exited => break status.ok(),
                () = &mut timeout, if deadline.is_some() && !timed_out => {
                    timed_out = true;
                    self.tree.kill().await;
                }
                event = receive(receiver) => self.heed(&mut peer, event).await,
                control = self.told.orders.recv() => {
                    if let Some(control) = control {
                        self.obey(control).await;
                    }
                }
                // What others say waits until there is nothing left of what was said before.
                piece = self.told.input.recv(), if !self.input.is_closed() && !self.input.wants() => {
                    match piece {
                        Some(Piece::Bytes(bytes)) => drop(self.input.push(bytes)),
                        Some(Piece::Finish) => self.input.finish(),
                        None => {}
                    }
                }
                length = self.input.feed(), if self.input.wants() => {
                    if let Some(peer) = &peer {
                        peer.stream.receiver.release(DATA, length);
                    }
                }
                more = pump(&self.agent, first, sink), if first.is_some() => {
                    if !more { *first = None; }
                }
                more = pump(&self.agent, second, sink), if second.is_some() => {
                    if !more { *second = None; }
                }
            }
        };
        let exit = self.exit(status, timed_out);
        if self.kill_orphans || timed_out {
            self.tree.kill().await;
        }
        self.input = Input::None;
        self.told.input.close();
        self.deliver_rest(&mut peer).await;
        self.known.record.finish(exit);
        self.agent.execs.ended(&self.known);
        if let Some(peer) = peer.filter(|peer| peer.attached) {
            // The peer may have gone in the very last moment.
            let answer = reply(Answer::Exit(exit));
            let _ = peer.stream.sender.last_message(&answer).await;
        }
        for output in self.outputs.into_iter().flatten() {
            tokio::spawn(output.drain(self.agent.clone()));
        }
    }

    /// Delivers what stood in the pipes when the command ended; what comes later is not its word.
    async fn deliver_rest(&mut self, peer: &mut Option<Peer>) {
        for slot in &mut self.outputs {
            let Some(output) = slot else { continue };
            let (sink, _) = ends(&self.known, peer);
            if !output.deliver_rest(&self.agent, sink).await {
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

    /// Does what the peer says.
    async fn heed(&mut self, peer: &mut Option<Peer>, event: Event) {
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
                    self.obey(control).await;
                }
            }
            Event::Closed(_) => {
                peer.attached = false;
                self.tree.kill().await;
            }
        }
    }

    async fn obey(&mut self, control: control::Control) {
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

/// Where output goes, and where the peer is heard.
fn ends<'a>(known: &'a Known, peer: &'a mut Option<Peer>) -> (Sink<'a>, Option<&'a mut Receiver>) {
    match peer {
        None => (Sink::Record(&known.record), None),
        Some(peer) if peer.attached => {
            let Stream { sender, receiver } = &mut peer.stream;
            (Sink::Peer(sender), Some(receiver))
        }
        Some(_) => (Sink::Nobody, None),
    }
}

async fn receive(receiver: Option<&mut Receiver>) -> Event {
    match receiver {
        Some(receiver) => receiver.receive().await,
        None => std::future::pending().await,
    }
}

/// Passes one piece of output on; `false` at its end.
async fn pump(agent: &Agent, output: &mut Option<Output>, sink: Sink<'_>) -> bool {
    match output {
        Some(output) => output.pass_on(agent, sink).await,
        None => std::future::pending().await,
    }
}
