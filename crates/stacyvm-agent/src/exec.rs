//! One command, from its request to its exit.
//!
//! Output is delivered before the exit, and the exit is reported when the command's own process has
//! been reaped, even if other processes still hold its pipes. What those print later goes to the
//! log, so that they neither block nor die of a broken pipe.
//!
//! A detached command may outlive its stream: it writes to a record, and the stream that started it
//! is the first of those that follow the record.

pub(crate) mod attach;
mod environment;
mod input;
mod output;
mod record;
mod running;
mod start;
pub(crate) mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use stacyvm_proto::message::{Answer, Attach, Code, Exec, Exit, ExitCause, Reply, Started};
use stacyvm_proto::mux::Stream;
use stacyvm_proto::{DATA, STDERR};

use crate::agent::Agent;
use crate::replies::{failure, reply};
use running::{Peer, Running, nanos};
use start::NotStarted;
use table::ExecEntry;

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
    let child = match started {
        Ok(child) => child,
        Err(NotStarted::Refused(refused)) => {
            // A send fails here only if the peer is gone, which then needs no answer.
            let answer = reply(Answer::Failure(refused));
            let _ = stream.sender.last_message(&answer).await;
            return;
        }
        Err(NotStarted::NoProgram { exit_code, message }) => {
            let exit = Exit {
                exit_code,
                signal: None,
                cause: ExitCause::Exit.into(),
                duration_nanos: nanos(begin.elapsed()),
            };
            return report_no_program(&agent, number, &exec, &message, exit, stream).await;
        }
    };
    let (entry, inbox) = agent.execs.add(number, &exec, child.pid);
    let deadline = exec
        .timeout_micros
        .and_then(|micros| begin.checked_add(Duration::from_micros(micros)));
    let running = Running {
        agent,
        entry: entry.clone(),
        begin,
        oom_before,
        pid: child.pid,
        tree: child.tree,
        input: child.input,
        inbox,
        outputs: child.outputs,
        kill_orphans: exec.kill_orphans,
    };
    if exec.detached {
        tokio::spawn(running.run(None, child.exited, deadline));
        follow_from_start(&entry, number, stream).await;
    } else {
        let started = started_reply(number, running.pid);
        let attached = stream.sender.message(&started).await.is_ok();
        let peer = Peer { stream, attached };
        running.run(Some(peer), child.exited, deadline).await;
    }
}

/// Reports a program that does not exist or cannot be run, as a shell would: a message on standard
/// error and an exit code.
async fn report_no_program(
    agent: &Agent,
    number: u64,
    exec: &Exec,
    message: &str,
    exit: Exit,
    stream: Stream,
) {
    let (entry, _) = agent.execs.add(number, exec, 0);
    let channel = if exec.tty.is_some() { DATA } else { STDERR };
    if exec.detached {
        entry.record.append(channel, message.as_bytes());
        entry.record.finish(exit);
        agent.execs.ended(&entry);
        return follow_from_start(&entry, number, stream).await;
    }
    agent.execs.ended(&entry);
    let sender = stream.sender;
    let message = message.as_bytes().to_vec().into();
    // A send fails here only if the peer is gone, which then needs no answer.
    let _ = sender.message(&started_reply(number, 0)).await;
    let _ = sender.send(channel, message).await;
    let _ = sender.last_message(&reply(Answer::Exit(exit))).await;
}

/// Reports the start of a detached command, and follows its record from the first byte.
async fn follow_from_start(entry: &ExecEntry, number: u64, stream: Stream) {
    let started = started_reply(number, entry.pid());
    if stream.sender.message(&started).await.is_ok() {
        let all = Attach {
            exec_id: number,
            follow: true,
            ..Attach::default()
        };
        let _ = attach::follow(entry, all, stream).await;
    }
}

fn started_reply(exec_id: u64, pid: i32) -> Reply {
    reply(Answer::Started(Started {
        exec_id,
        pid: pid.unsigned_abs(),
    }))
}
