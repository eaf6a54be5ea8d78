//! Reading the answers of a stream.

use prost::Message as _;
use stacyvm_proto::message::{Answer, Entry, Reply};
use stacyvm_proto::mux::{Event, Receiver, Stream};

use crate::OpError;
use crate::convert::{failure, lost};

/// The most entries, paths or lines of one answer. More is refused, so that a hostile agent cannot
/// fill the server's memory.
const MAX_ITEMS: usize = 1_000_000;
/// The most bytes of such an answer.
const MAX_ITEM_BYTES: usize = 128 * 1024 * 1024;

pub(crate) fn unexpected() -> OpError {
    OpError::Failed("the agent answered something else than was asked".into())
}

fn too_much() -> OpError {
    OpError::Limit("the answer is too long: ask for a smaller part".into())
}

/// The next answer. Data and ends of channels before it are skipped.
pub(crate) async fn next(receiver: &mut Receiver) -> Result<Answer, OpError> {
    loop {
        match receiver.receive().await {
            Event::Message(message) => {
                let reply = Reply::decode(message)
                    .map_err(|_| OpError::Failed("the agent's answer cannot be read".into()))?;
                match reply.answer {
                    Some(Answer::Failure(failed)) => return Err(failure(failed)),
                    Some(answer) => return Ok(answer),
                    None => {}
                }
            }
            Event::Data(channel, data) => receiver.release(channel, data.len()),
            Event::Finished(_) => {}
            Event::Closed(_) => return Err(lost()),
        }
    }
}

pub(crate) async fn first(mut stream: Stream) -> Result<Answer, OpError> {
    next(&mut stream.receiver).await
}

pub(crate) async fn done(stream: Stream) -> Result<(), OpError> {
    match first(stream).await? {
        Answer::Done(_) => Ok(()),
        _ => Err(unexpected()),
    }
}

pub(crate) async fn entries(mut stream: Stream) -> Result<Vec<Entry>, OpError> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    loop {
        match next(&mut stream.receiver).await? {
            Answer::Entries(some) => {
                bytes += some.encoded_len();
                all.extend(some.entries);
            }
            Answer::Done(_) => return Ok(all),
            _ => return Err(unexpected()),
        }
        if all.len() > MAX_ITEMS || bytes > MAX_ITEM_BYTES {
            return Err(too_much());
        }
    }
}

pub(crate) async fn paths(mut stream: Stream) -> Result<Vec<String>, OpError> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    loop {
        match next(&mut stream.receiver).await? {
            Answer::Paths(some) => {
                bytes += some.encoded_len();
                all.extend(some.paths);
            }
            Answer::Done(_) => return Ok(all),
            _ => return Err(unexpected()),
        }
        if all.len() > MAX_ITEMS || bytes > MAX_ITEM_BYTES {
            return Err(too_much());
        }
    }
}
