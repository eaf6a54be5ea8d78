//! Looking at commands from streams that did not start them: listing, following, telling.

use std::collections::VecDeque;

use stacyvm_proto::DATA;
use stacyvm_proto::message::{
    Answer, Attach, Code, Control, Done, ExecInfos, Execs, Failure, Resumed, Tell,
};
use stacyvm_proto::mux::{Event, MuxError, Receiver, Sender, Stream};

use super::record::Next;
use super::table::{Known, Piece};
use crate::agent::Agent;
use crate::failure::{failure, reply};

/// Commands in one message: each shows at most 4 KiB of its arguments and their framing.
const PER_MESSAGE: usize = 4;

/// Answers which commands there are.
pub(crate) async fn list(agent: &Agent, asked: Execs, sender: &Sender) -> Result<(), MuxError> {
    let known = match asked.exec_id {
        None => agent.execs.all(),
        Some(number) => match agent.execs.find(number) {
            Ok(known) => vec![known],
            Err(missing) => return refuse(sender, missing).await,
        },
    };
    for some in known.chunks(PER_MESSAGE) {
        let execs = some.iter().map(|known| known.info()).collect();
        let part = reply(Answer::Execs(ExecInfos { execs }));
        sender.message(&part).await?;
    }
    sender.last_message(&reply(Answer::Done(Done {}))).await
}

/// Serves a stream that wants to follow a kept command.
pub(crate) async fn serve(agent: &Agent, asked: Attach, stream: Stream) -> Result<(), MuxError> {
    let known = match agent.execs.find(asked.exec_id) {
        Ok(known) if known.kept => known,
        Ok(_) => {
            let refused = failure(
                Code::Conflict,
                "the command was not started detached, so its output is not kept",
            );
            return refuse(&stream.sender, refused).await;
        }
        Err(missing) => return refuse(&stream.sender, missing).await,
    };
    follow(&known, asked, stream).await
}

/// Passes a kept command's output to a stream, and what the stream says to the command. The end of
/// the stream, or of its peer, is not the command's.
pub(super) async fn follow(known: &Known, asked: Attach, stream: Stream) -> Result<(), MuxError> {
    let Stream {
        sender,
        mut receiver,
    } = stream;
    let output = async {
        if asked.quiet {
            let exit = known.record.ended().await;
            return sender.last_message(&reply(Answer::Exit(exit))).await;
        }
        let mut reading = known.record.read_from(asked.offset);
        // Without following, what is there now is all: a command may print for ever.
        let (_, end) = known.record.bounds();
        let mut position = 0;
        loop {
            let next = if asked.follow {
                reading.next().await
            } else {
                match reading.now() {
                    Some(Next::Data(..)) | None if position >= end => {
                        return sender.last_message(&reply(Answer::Done(Done {}))).await;
                    }
                    Some(next) => next,
                    None => return sender.last_message(&reply(Answer::Done(Done {}))).await,
                }
            };
            match next {
                Next::Data(channel, bytes) => {
                    position += bytes.len() as u64;
                    sender.send(channel, bytes).await?;
                }
                Next::Resumed(offset) => {
                    position = offset;
                    let resumed = Answer::Resumed(Resumed { offset });
                    sender.message(&reply(resumed)).await?;
                }
                Next::Exit(exit) => {
                    return sender.last_message(&reply(Answer::Exit(exit))).await;
                }
            }
        }
    };
    tokio::select! {
        sent = output => sent,
        // Whatever ends the conversation, nobody is left to hear more.
        _ = converse(known, &mut receiver, Until::Gone) => Ok(()),
    }
}

/// Until when a conversation goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The peer is gone; its end of input is the command's.
    Gone,
    /// The peer's input has all been handed over.
    Finished,
}

/// Hands on what a peer says. Input waits for the command to take it, within the stream's window;
/// controls do not wait for input.
async fn converse(known: &Known, receiver: &mut Receiver, until: Until) -> Result<(), Failure> {
    let mut waiting: VecDeque<Piece> = VecDeque::new();
    let mut finished = false;
    while until == Until::Gone || !finished || !waiting.is_empty() {
        let event = tokio::select! {
            event = receiver.receive() => event,
            permit = known.input.reserve(), if !waiting.is_empty() => {
                let piece = waiting.pop_front().expect("something waits");
                if let Piece::Bytes(bytes) = &piece {
                    receiver.release(DATA, bytes.len());
                }
                match permit {
                    Ok(permit) => permit.send(piece),
                    Err(_) if until == Until::Finished => return Err(closed()),
                    // Who follows the output too wants to see the end.
                    Err(_) => {}
                }
                continue;
            }
        };
        match event {
            Event::Data(DATA, bytes) => waiting.push_back(Piece::Bytes(bytes)),
            Event::Data(channel, bytes) => receiver.release(channel, bytes.len()),
            Event::Finished(DATA) => {
                finished = true;
                if until == Until::Gone {
                    waiting.push_back(Piece::Finish);
                }
            }
            Event::Finished(_) => {}
            Event::Message(message) => {
                let control: Option<Control> = prost::Message::decode(message).ok();
                if let Some(control) = control.and_then(|control| control.control) {
                    // It may have ended a moment ago.
                    let _ = known.orders.send(control).await;
                }
            }
            Event::Closed(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Tells a command something and answers when it has been told.
pub(crate) async fn tell(agent: &Agent, asked: Tell, stream: Stream) -> Result<(), MuxError> {
    let Stream {
        sender,
        mut receiver,
    } = stream;
    let known = match agent.execs.find(asked.exec_id) {
        Ok(known) => known,
        Err(missing) => return refuse(&sender, missing).await,
    };
    // A command that ends meanwhile closes its input: what it took before was told all the same.
    let told = match known.record.exit() {
        Some(_) => Err(over()),
        None => told(&known, asked, &mut receiver).await,
    };
    match told {
        Ok(()) => sender.last_message(&reply(Answer::Done(Done {}))).await,
        Err(failed) => refuse(&sender, failed).await,
    }
}

async fn told(known: &Known, asked: Tell, receiver: &mut Receiver) -> Result<(), Failure> {
    if let Some(control) = asked.control.and_then(|control| control.control) {
        known.orders.send(control).await.map_err(|_| over())?;
    }
    if (asked.input || asked.close) && known.input.is_closed() {
        return Err(closed());
    }
    if asked.input {
        converse(known, receiver, Until::Finished).await?;
    }
    if asked.close {
        // Closed meanwhile is what was wanted.
        let _ = known.input.send(Piece::Finish).await;
    }
    Ok(())
}

fn closed() -> Failure {
    failure(Code::Conflict, "the command has no input, or it is closed")
}

fn over() -> Failure {
    failure(Code::Conflict, "the command has ended")
}

async fn refuse(sender: &Sender, refused: Failure) -> Result<(), MuxError> {
    sender.last_message(&reply(Answer::Failure(refused))).await
}
