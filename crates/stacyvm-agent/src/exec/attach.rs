//! Commands seen from streams that did not start them: listing, following, controlling.

use std::collections::VecDeque;

use stacyvm_proto::DATA;
use stacyvm_proto::message::{
    Answer, Attach, Code, Control, ExecInfos, Execs, Failure, Resumed, Tell,
};
use stacyvm_proto::mux::{Event, MuxError, Receiver, Sender, Stream};

use super::record::RecordEvent;
use super::table::{ExecEntry, InputChunk};
use crate::agent::Agent;
use crate::replies::{done, failure, reply};

/// How many commands go into one message: each shows at most 4 KiB of its arguments.
const PER_MESSAGE: usize = 4;

/// Lists all commands, or one.
pub(crate) async fn list(agent: &Agent, asked: Execs, sender: &Sender) -> Result<(), MuxError> {
    let entries = match asked.exec_id {
        None => agent.execs.all(),
        Some(number) => match agent.execs.find(number) {
            Ok(entry) => vec![entry],
            Err(missing) => return refuse(sender, missing).await,
        },
    };
    for some in entries.chunks(PER_MESSAGE) {
        let execs = some.iter().map(|entry| entry.info()).collect();
        let part = reply(Answer::Execs(ExecInfos { execs }));
        sender.message(&part).await?;
    }
    sender.last_message(&done()).await
}

/// Serves a stream that follows a detached command.
pub(crate) async fn serve(agent: &Agent, asked: Attach, stream: Stream) -> Result<(), MuxError> {
    let entry = match agent.execs.find(asked.exec_id) {
        Ok(entry) if entry.detached => entry,
        Ok(_) => {
            let refused = failure(
                Code::Conflict,
                "the command was not started detached, so its output is not kept",
            );
            return refuse(&stream.sender, refused).await;
        }
        Err(missing) => return refuse(&stream.sender, missing).await,
    };
    follow(&entry, asked, stream).await
}

/// Copies a detached command's output to a stream, and the stream's input and controls to the command.
/// The end of the stream, or of its peer, does not end the command.
pub(super) async fn follow(
    entry: &ExecEntry,
    asked: Attach,
    stream: Stream,
) -> Result<(), MuxError> {
    let Stream {
        sender,
        mut receiver,
    } = stream;
    let output = async {
        if asked.quiet {
            let exit = entry.record.ended().await;
            return sender.last_message(&reply(Answer::Exit(exit))).await;
        }
        let mut reader = entry.record.read_from(asked.offset);
        // Without `follow`, only the present output is sent: a command may print for ever.
        let (_, end) = entry.record.bounds();
        let mut position = 0;
        loop {
            let next = if asked.follow {
                reader.next().await
            } else {
                match reader.now() {
                    Some(RecordEvent::Data(..)) | None if position >= end => {
                        return sender.last_message(&done()).await;
                    }
                    Some(next) => next,
                    None => return sender.last_message(&done()).await,
                }
            };
            match next {
                RecordEvent::Data(channel, bytes) => {
                    position += bytes.len() as u64;
                    sender.send(channel, bytes).await?;
                }
                RecordEvent::Resumed(offset) => {
                    position = offset;
                    let resumed = Answer::Resumed(Resumed { offset });
                    sender.message(&reply(resumed)).await?;
                }
                RecordEvent::Exit(exit) => {
                    return sender.last_message(&reply(Answer::Exit(exit))).await;
                }
            }
        }
    };
    tokio::select! {
        sent = output => sent,
        // The relay ends only when the peer is gone.
        _ = relay_input(entry, &mut receiver, RelayEnd::PeerGone) => Ok(()),
    }
}

/// When the relay of a peer's input ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RelayEnd {
    /// When the peer is gone. The end of its input is the end of the command's input.
    PeerGone,
    /// When the command has taken all of the peer's input.
    InputTaken,
}

/// Relays a peer's input and controls to a command. Input waits until the command takes it, within
/// the stream's window; controls do not wait for input.
async fn relay_input(
    entry: &ExecEntry,
    receiver: &mut Receiver,
    end: RelayEnd,
) -> Result<(), Failure> {
    let mut waiting: VecDeque<InputChunk> = VecDeque::new();
    let mut finished = false;
    while end == RelayEnd::PeerGone || !finished || !waiting.is_empty() {
        let event = tokio::select! {
            event = receiver.receive() => event,
            permit = entry.input.reserve(), if !waiting.is_empty() => {
                let chunk = waiting.pop_front().expect("the queue is not empty");
                if let InputChunk::Bytes(bytes) = &chunk {
                    receiver.release(DATA, bytes.len());
                }
                match permit {
                    Ok(permit) => permit.send(chunk),
                    Err(_) if end == RelayEnd::InputTaken => return Err(input_closed()),
                    // A follower of the output still waits for the exit.
                    Err(_) => {}
                }
                continue;
            }
        };
        match event {
            Event::Data(DATA, bytes) => waiting.push_back(InputChunk::Bytes(bytes)),
            Event::Data(channel, bytes) => receiver.release(channel, bytes.len()),
            Event::Finished(DATA) => {
                finished = true;
                if end == RelayEnd::PeerGone {
                    waiting.push_back(InputChunk::End);
                }
            }
            Event::Finished(_) => {}
            Event::Message(message) => {
                let control: Option<Control> = prost::Message::decode(message).ok();
                if let Some(control) = control.and_then(|control| control.control) {
                    // The command may have ended a moment ago.
                    let _ = entry.controls.send(control).await;
                }
            }
            Event::Closed(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Sends a control or input to a command, and answers when the command has it.
pub(crate) async fn control(agent: &Agent, asked: Tell, stream: Stream) -> Result<(), MuxError> {
    let Stream {
        sender,
        mut receiver,
    } = stream;
    let entry = match agent.execs.find(asked.exec_id) {
        Ok(entry) => entry,
        Err(missing) => return refuse(&sender, missing).await,
    };
    // A command that ends meanwhile closes its input; input that it took before counts as taken.
    let sent = match entry.record.exit() {
        Some(_) => Err(command_ended()),
        None => send_to_command(&entry, asked, &mut receiver).await,
    };
    match sent {
        Ok(()) => sender.last_message(&done()).await,
        Err(failed) => refuse(&sender, failed).await,
    }
}

async fn send_to_command(
    entry: &ExecEntry,
    asked: Tell,
    receiver: &mut Receiver,
) -> Result<(), Failure> {
    if let Some(control) = asked.control.and_then(|control| control.control) {
        entry
            .controls
            .send(control)
            .await
            .map_err(|_| command_ended())?;
    }
    if (asked.input || asked.close) && entry.input.is_closed() {
        return Err(input_closed());
    }
    if asked.input {
        relay_input(entry, receiver, RelayEnd::InputTaken).await?;
    }
    if asked.close {
        // If the input was closed meanwhile, that is what was asked for.
        let _ = entry.input.send(InputChunk::End).await;
    }
    Ok(())
}

fn input_closed() -> Failure {
    failure(Code::Conflict, "the command has no input, or it is closed")
}

fn command_ended() -> Failure {
    failure(Code::Conflict, "the command has ended")
}

async fn refuse(sender: &Sender, refused: Failure) -> Result<(), MuxError> {
    sender.last_message(&reply(Answer::Failure(refused))).await
}
