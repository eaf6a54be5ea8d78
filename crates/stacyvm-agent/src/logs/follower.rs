//! Followers of the log: the newest lines, then each line as it is printed.
//!
//! A follower has a place in the ring and takes from it as fast as its peer reads. One that is
//! slower than the output skips what has fallen out of the ring meanwhile, and says how much.

use std::sync::Arc;
use std::time::Duration;

use stacyvm_proto::message::{Answer, Paths};
use stacyvm_proto::mux::{Event, MuxError, Receiver, Sender, Stream};

use super::cutter::Cutter;
use super::{Logs, Newest};
use crate::agent::{Agent, lock};
use crate::failure::reply;
use crate::serve::NAMES_PER_MESSAGE;

/// A line without an end is handed out when nothing was added to it for so long: a prompt, or the
/// last words of a command.
const QUIET: Duration = Duration::from_secs(1);
/// Bytes of output looked at once.
const LOOK: usize = 64 * 1024;

/// One follower's place.
#[derive(Debug)]
struct Follower {
    /// Among all that was ever printed.
    at: u64,
    cutter: Cutter,
}

impl Follower {
    /// Behind everything that is there, with the last `count` whole lines of it.
    fn new(logs: &Logs, count: usize) -> (Self, Vec<String>) {
        let mut newest = Newest::new(count);
        let mut cutter = Cutter::default();
        for piece in &logs.pieces {
            cutter.cut(piece.lane, &piece.bytes, &mut |line| newest.keep(line));
        }
        let at = logs.total;
        (Self { at, cutter }, newest.0.into())
    }

    /// The next lines, and how many bytes were skipped before them.
    fn take(&mut self, logs: &Logs) -> Paths {
        let mut part = Paths::default();
        let oldest = logs.pieces.front().map_or(logs.total, |piece| piece.start);
        if self.at < oldest {
            part.skipped = oldest - self.at;
            self.at = oldest;
            self.cutter.forget();
        }
        let first = logs
            .pieces
            .partition_point(|piece| piece.start + piece.bytes.len() as u64 <= self.at);
        let (mut looked, mut kept) = (0, 0);
        for piece in logs.pieces.range(first..) {
            let seen = usize::try_from(self.at - piece.start).unwrap_or(usize::MAX);
            let mut rest = piece.bytes.get(seen..).unwrap_or_default();
            while !rest.is_empty() && looked < LOOK && kept <= NAMES_PER_MESSAGE {
                // Line by line, so that no message grows beyond its bound.
                let end = rest.iter().position(|byte| *byte == b'\n');
                let (line, after) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
                self.cutter.cut(piece.lane, line, &mut |line| {
                    kept += line.len() + 8;
                    part.paths.push(line);
                });
                looked += line.len();
                self.at += line.len() as u64;
                rest = after;
            }
            if !rest.is_empty() {
                break;
            }
        }
        part
    }
}

/// Serves one follower until it goes.
pub(crate) async fn serve(agent: Arc<Agent>, lines: usize, stream: Stream) {
    let Stream {
        sender,
        mut receiver,
    } = stream;
    tokio::select! {
        // A peer that is gone needs no answer.
        _ = send(&agent, lines, &sender) => {}
        () = gone(&mut receiver) => {}
    }
}

async fn gone(receiver: &mut Receiver) {
    loop {
        match receiver.receive().await {
            Event::Closed(_) => return,
            Event::Data(channel, data) => receiver.release(channel, data.len()),
            Event::Message(_) | Event::Finished(_) => {}
        }
    }
}

async fn send(agent: &Agent, lines: usize, sender: &Sender) -> Result<(), MuxError> {
    let (mut follower, newest) = Follower::new(&lock(&agent.logs), lines);
    crate::serve::name_parts(sender, newest).await?;
    let grown = Arc::clone(&lock(&agent.logs).grown);
    loop {
        let more = grown.notified();
        tokio::pin!(more);
        // Before the look, so that what comes after it is noticed.
        more.as_mut().enable();
        let before = follower.at;
        let mut part = follower.take(&lock(&agent.logs));
        let looked = follower.at != before;
        // Also while others print: a prompt is not to wait for their silence.
        part.paths.extend(follower.cutter.quiet(QUIET));
        if !part.paths.is_empty() || part.skipped > 0 {
            sender.message(&reply(Answer::Paths(part))).await?;
            continue;
        }
        if looked {
            // Others' turn: a command may print without an end of line for ever.
            tokio::task::yield_now().await;
            continue;
        }
        let begun = follower.cutter.has_begun();
        tokio::select! {
            () = more => {}
            () = tokio::time::sleep(QUIET), if begun => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::MAX_BYTES;

    #[test]
    fn every_line_comes_once_and_whole() {
        let mut logs = Logs::default();
        logs.append(2, b"old\nbegun ");
        let (mut follower, newest) = Follower::new(&logs, 10);
        assert_eq!(newest, ["old"]);
        assert!(follower.take(&logs).paths.is_empty());
        // Joined to a piece that was seen in part.
        logs.append(2, b"before\nnext");
        assert_eq!(follower.take(&logs).paths, ["begun before"]);
        logs.append(4, b"another's\n");
        logs.append(2, b" one\r\n");
        assert_eq!(follower.take(&logs).paths, ["another's", "next one"]);
        assert!(!follower.cutter.has_begun());
        logs.append(2, b"prompt> ");
        assert!(follower.take(&logs).paths.is_empty());
        assert!(follower.cutter.quiet(QUIET).is_empty());
        assert_eq!(follower.cutter.quiet(Duration::ZERO), ["prompt> "]);
    }

    #[test]
    fn who_is_too_slow_hears_how_much_is_missing() {
        let mut logs = Logs::default();
        let (mut follower, _) = Follower::new(&logs, 10);
        let line = format!("{}\n", "x".repeat(99));
        let printed = 2 * MAX_BYTES as u64 / 100;
        for _ in 0..printed {
            logs.append(2, line.as_bytes());
        }
        let (mut heard, mut skipped) = (0, 0);
        loop {
            let part = follower.take(&logs);
            if part.paths.is_empty() {
                break;
            }
            assert!(part.paths.iter().map(String::len).sum::<usize>() < 2 * NAMES_PER_MESSAGE);
            skipped += part.skipped;
            heard += part.paths.len() as u64;
        }
        assert_eq!(heard + skipped / 100, printed);
        assert!(skipped > 0 && heard > 1000);
    }
}
