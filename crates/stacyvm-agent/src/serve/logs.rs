//! Log requests: the newest lines, and with `follow` every line as it is printed.

use std::sync::Arc;

use stacyvm_proto::message::Answer;
use stacyvm_proto::mux::{Event, MuxError, Receiver, Sender, Stream};

use crate::agent::Agent;
use crate::logs::follower::{Follower, PARTIAL_LINE_TIMEOUT};
use crate::replies::{reply, send_all_names, send_names};

/// Sends the newest lines and ends the stream.
pub(super) async fn send_newest(
    agent: &Agent,
    lines: usize,
    sender: &Sender,
) -> Result<(), MuxError> {
    let lines = agent.logs.lock().lines(lines);
    send_all_names(sender, lines).await
}

/// Sends the newest lines, then new ones until the peer closes the stream.
pub(super) async fn follow(agent: Arc<Agent>, lines: usize, stream: Stream) {
    let Stream {
        sender,
        mut receiver,
    } = stream;
    tokio::select! {
        // If the peer is gone, no answer is needed.
        _ = send_lines(&agent, lines, &sender) => {}
        () = closed(&mut receiver) => {}
    }
}

async fn closed(receiver: &mut Receiver) {
    loop {
        match receiver.receive().await {
            Event::Closed(_) => return,
            Event::Data(channel, data) => receiver.release(channel, data.len()),
            Event::Message(_) | Event::Finished(_) => {}
        }
    }
}

async fn send_lines(agent: &Agent, lines: usize, sender: &Sender) -> Result<(), MuxError> {
    let (mut follower, newest) = Follower::new(&agent.logs.lock(), lines);
    send_names(sender, newest).await?;
    let grown = agent.logs.lock().grown();
    loop {
        let more = grown.notified();
        tokio::pin!(more);
        // Enabled before the log is read, so that later output is noticed.
        more.as_mut().enable();
        let before = follower.position();
        let mut part = follower.take(&agent.logs.lock());
        let advanced = follower.position() != before;
        // Also while other commands print: a prompt must not wait until they are silent.
        part.paths.extend(follower.take_partial());
        if !part.paths.is_empty() || part.skipped > 0 {
            sender.message(&reply(Answer::Paths(part))).await?;
            continue;
        }
        if advanced {
            // Other tasks run in between: a command may print without an end of line for ever.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = more => {}
            () = tokio::time::sleep(PARTIAL_LINE_TIMEOUT), if follower.has_partial() => {}
        }
    }
}
