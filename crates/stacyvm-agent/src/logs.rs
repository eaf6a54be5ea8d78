//! What commands printed, in a bounded ring.
//!
//! Output is kept as it comes, piece by piece, and cut into lines only when somebody asks: a
//! command that prints a gigabyte must not pay for lines nobody reads.

mod cutter;
mod follow;

pub(crate) use follow::serve;

use std::collections::VecDeque;
use std::sync::Arc;

use cutter::Cutter;
use tokio::sync::Notify;

/// Bytes kept.
const MAX_BYTES: usize = 256 * 1024;
/// Lines answered at most.
pub(crate) const MAX_LINES: usize = 1000;
/// Pieces of one lane are joined up to this size.
const JOIN: usize = 4 * 1024;

#[derive(Debug)]
struct Piece {
    lane: u64,
    /// Where it begins among all that was ever printed.
    start: u64,
    bytes: Vec<u8>,
}

/// The ring. A lane is one stream of one command: its lines are never mixed with another's.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// Bytes ever taken note of.
    total: u64,
    /// Told when there is more.
    grown: Arc<Notify>,
}

impl Logs {
    /// Takes note of output.
    pub(crate) fn append(&mut self, lane: u64, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(MAX_BYTES)..];
        if bytes.is_empty() {
            return;
        }
        self.bytes += bytes.len();
        let start = self.total;
        self.total += bytes.len() as u64;
        // What falls out gives its memory to what comes in.
        let mut free = None;
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.pieces.pop_front()
        {
            self.bytes -= oldest.bytes.len();
            free = Some(oldest.bytes);
        }
        match self.pieces.back_mut() {
            Some(last) if last.lane == lane && last.bytes.len() + bytes.len() <= JOIN => {
                last.bytes.extend_from_slice(bytes);
            }
            _ => {
                let mut buffer = free
                    .filter(|free| free.capacity() <= 2 * bytes.len())
                    .unwrap_or_default();
                buffer.clear();
                buffer.extend_from_slice(bytes);
                self.pieces.push_back(Piece {
                    lane,
                    start,
                    bytes: buffer,
                });
            }
        }
        // Nobody waits, mostly, and then this is one load.
        self.grown.notify_waiters();
    }

    /// The last `count` lines, newest last; unfinished ones count.
    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        let mut newest = Newest::new(count);
        let mut cutter = Cutter::default();
        for piece in &self.pieces {
            cutter.cut(piece.lane, &piece.bytes, &mut |line| newest.keep(line));
        }
        for line in cutter.rest() {
            newest.keep(line);
        }
        newest.0.into()
    }
}

/// The newest lines, so many at most.
struct Newest(VecDeque<String>, usize);

impl Newest {
    fn new(count: usize) -> Self {
        Self(VecDeque::new(), count.min(MAX_LINES))
    }

    fn keep(&mut self, line: String) {
        let Self(lines, count) = self;
        if lines.len() == *count {
            lines.pop_front();
        }
        if *count > 0 {
            lines.push_back(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cutter::MAX_LINE;
    use super::*;

    #[test]
    fn lines_of_several_lanes_are_not_mixed() {
        let mut logs = Logs::default();
        logs.append(2, b"one ");
        logs.append(4, b"two\r\nbeg");
        logs.append(2, b"line\n");
        logs.append(4, b"un");
        assert_eq!(logs.lines(10), ["two", "one line", "begun"]);
        assert_eq!(logs.lines(1), ["begun"]);
        assert!(logs.lines(0).is_empty());
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut logs = Logs::default();
        for number in 0..200_000_u32 {
            logs.append(2, format!("line {number}\n").as_bytes());
        }
        logs.append(6, &vec![b'x'; 3 * MAX_BYTES / 2]);
        assert!(logs.bytes <= MAX_BYTES);
        assert_eq!(
            logs.pieces
                .iter()
                .map(|piece| piece.bytes.len())
                .sum::<usize>(),
            logs.bytes
        );
        assert!(
            logs.pieces
                .iter()
                .map(|piece| piece.bytes.capacity())
                .sum::<usize>()
                <= 3 * MAX_BYTES
        );
        let lines = logs.lines(usize::MAX);
        assert!(lines.len() <= MAX_LINES);
        assert_eq!(lines.last().map(String::len), Some(MAX_LINE));
    }

    #[test]
    fn only_the_newest_lines_are_kept() {
        let mut logs = Logs::default();
        for number in 0..5_000 {
            logs.append(2, format!("{number}\n").as_bytes());
        }
        let lines = logs.lines(3);
        assert_eq!(lines, ["4997", "4998", "4999"]);
        assert_eq!(logs.lines(100_000).len(), MAX_LINES);
    }
}
