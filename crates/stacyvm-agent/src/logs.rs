//! The output of commands, in a bounded ring.
//!
//! Output is stored as it comes, chunk by chunk, and split into lines only on request, so that a
//! command that prints a gigabyte does not pay for lines that are never read.

pub(crate) mod follower;
mod line_splitter;

use std::collections::VecDeque;
use std::sync::Arc;

use line_splitter::LineSplitter;
use tokio::sync::Notify;

/// How many bytes of output are stored.
const MAX_BYTES: usize = 256 * 1024;
/// The most lines that are answered.
pub(crate) const MAX_LINES: usize = 1000;
/// Chunks of one lane are merged up to this size, bytes.
const MAX_MERGED: usize = 4 * 1024;

#[derive(Debug)]
struct Chunk {
    lane: u64,
    /// Offset of its first byte in all output ever appended.
    start: u64,
    bytes: Vec<u8>,
}

/// The ring of output. A lane is one stream of one command; lines of two lanes are never mixed.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// How many bytes were ever appended.
    total: u64,
    /// Notified when output is appended.
    grown: Arc<Notify>,
}

impl Logs {
    /// Appends output of one lane.
    pub(crate) fn append(&mut self, lane: u64, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(MAX_BYTES)..];
        if bytes.is_empty() {
            return;
        }
        self.bytes += bytes.len();
        let start = self.total;
        self.total += bytes.len() as u64;
        // A removed chunk gives its memory to the new one.
        let mut free = None;
        while self.bytes > MAX_BYTES
            && let Some(oldest) = self.chunks.pop_front()
        {
            self.bytes -= oldest.bytes.len();
            free = Some(oldest.bytes);
        }
        match self.chunks.back_mut() {
            Some(last) if last.lane == lane && last.bytes.len() + bytes.len() <= MAX_MERGED => {
                last.bytes.extend_from_slice(bytes);
            }
            _ => {
                let mut buffer = free
                    .filter(|free| free.capacity() <= 2 * bytes.len())
                    .unwrap_or_default();
                buffer.clear();
                buffer.extend_from_slice(bytes);
                self.chunks.push_back(Chunk {
                    lane,
                    start,
                    bytes: buffer,
                });
            }
        }
        // Without followers this is only one load.
        self.grown.notify_waiters();
    }

    /// Notifies waiting followers of new output.
    pub(crate) fn grown(&self) -> Arc<Notify> {
        Arc::clone(&self.grown)
    }

    /// The last `count` lines, newest last; unfinished lines count.
    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        let mut newest = NewestLines::new(count);
        let mut splitter = LineSplitter::default();
        for chunk in &self.chunks {
            splitter.split(chunk.lane, &chunk.bytes, &mut |line| newest.push(line));
        }
        for line in splitter.rest() {
            newest.push(line);
        }
        newest.0.into()
    }
}

/// The newest lines, up to a number.
struct NewestLines(VecDeque<String>, usize);

impl NewestLines {
    fn new(count: usize) -> Self {
        Self(VecDeque::new(), count.min(MAX_LINES))
    }

    fn push(&mut self, line: String) {
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
    use super::line_splitter::MAX_LINE;
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
            logs.chunks
                .iter()
                .map(|chunk| chunk.bytes.len())
                .sum::<usize>(),
            logs.bytes
        );
        assert!(
            logs.chunks
                .iter()
                .map(|chunk| chunk.bytes.capacity())
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
