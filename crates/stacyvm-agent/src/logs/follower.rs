//! Followers of the log: the newest lines, then each line as it is printed.
//!
//! A follower has a position in the ring and reads from it as fast as its peer does. A follower that
//! is slower than the output skips what was removed from the ring meanwhile, and reports how much.

use std::time::Duration;

use stacyvm_proto::message::Paths;

use super::line_splitter::LineSplitter;
use super::{Logs, NewestLines};
use crate::replies::NAMES_PER_MESSAGE;

/// A line without an end is sent when nothing was added to it for this long: it is a prompt, or the
/// end of a command's output.
pub(crate) const PARTIAL_LINE_TIMEOUT: Duration = Duration::from_secs(1);
/// How many bytes of output one call examines.
const MAX_EXAMINED: usize = 64 * 1024;

/// One follower of the log.
#[derive(Debug)]
pub(crate) struct Follower {
    /// Offset of the next byte in all output ever appended.
    position: u64,
    splitter: LineSplitter,
}

impl Follower {
    /// A follower at the end of the log, and the last `count` whole lines before it.
    pub(crate) fn new(logs: &Logs, count: usize) -> (Self, Vec<String>) {
        let mut newest = NewestLines::new(count);
        let mut splitter = LineSplitter::default();
        for chunk in &logs.chunks {
            splitter.split(chunk.lane, &chunk.bytes, &mut |line| newest.push(line));
        }
        let position = logs.total;
        (Self { position, splitter }, newest.0.into())
    }

    /// Offset of the next byte in all output ever appended.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Whether a line has begun and is not whole.
    pub(crate) fn has_partial(&self) -> bool {
        self.splitter.has_partial()
    }

    /// Takes the unfinished lines that are older than [`PARTIAL_LINE_TIMEOUT`].
    pub(crate) fn take_partial(&mut self) -> Vec<String> {
        self.splitter.take_older(PARTIAL_LINE_TIMEOUT)
    }

    /// Takes the next lines, and reports how many bytes were skipped before them.
    pub(crate) fn take(&mut self, logs: &Logs) -> Paths {
        let mut part = Paths::default();
        let oldest = logs.chunks.front().map_or(logs.total, |chunk| chunk.start);
        if self.position < oldest {
            part.skipped = oldest - self.position;
            self.position = oldest;
            self.splitter.forget();
        }
        let first = logs
            .chunks
            .partition_point(|chunk| chunk.start + chunk.bytes.len() as u64 <= self.position);
        let (mut examined, mut kept) = (0, 0);
        for chunk in logs.chunks.range(first..) {
            let seen = usize::try_from(self.position - chunk.start).unwrap_or(usize::MAX);
            let mut rest = chunk.bytes.get(seen..).unwrap_or_default();
            while !rest.is_empty() && examined < MAX_EXAMINED && kept <= NAMES_PER_MESSAGE {
                // Line by line, so that no message becomes too large.
                let end = rest.iter().position(|byte| *byte == b'\n');
                let (line, after) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
                self.splitter.split(chunk.lane, line, &mut |line| {
                    kept += line.len() + 8;
                    part.paths.push(line);
                });
                examined += line.len();
                self.position += line.len() as u64;
                rest = after;
            }
            if !rest.is_empty() {
                break;
            }
        }
        part
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
        // Merged into a chunk that was already read in part.
        logs.append(2, b"before\nnext");
        assert_eq!(follower.take(&logs).paths, ["begun before"]);
        logs.append(4, b"another's\n");
        logs.append(2, b" one\r\n");
        assert_eq!(follower.take(&logs).paths, ["another's", "next one"]);
        assert!(!follower.splitter.has_partial());
        logs.append(2, b"prompt> ");
        assert!(follower.take(&logs).paths.is_empty());
        assert!(
            follower
                .splitter
                .take_older(PARTIAL_LINE_TIMEOUT)
                .is_empty()
        );
        assert_eq!(follower.splitter.take_older(Duration::ZERO), ["prompt> "]);
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
