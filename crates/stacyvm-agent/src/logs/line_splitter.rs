//! From chunks of several lanes to whole lines.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The longest line, bytes; the rest of a longer one is dropped.
pub(super) const MAX_LINE: usize = 8 * 1024;

/// Splits output into lines, and stores the unfinished line of each lane.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    partial: HashMap<u64, PartialLine>,
}

#[derive(Debug)]
struct PartialLine {
    line: Vec<u8>,
    /// When bytes were last added to it.
    touched: Instant,
}

impl LineSplitter {
    /// Adds bytes to a lane and passes the lines that are now whole to `push`.
    pub(super) fn split(&mut self, lane: u64, bytes: &[u8], push: &mut impl FnMut(String)) {
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let whole = parts.peek().is_some();
            if part.is_empty() && !whole {
                return;
            }
            let partial = self.partial.entry(lane).or_insert_with(|| PartialLine {
                line: Vec::new(),
                touched: Instant::now(),
            });
            let room = MAX_LINE.saturating_sub(partial.line.len());
            partial
                .line
                .extend_from_slice(&part[..part.len().min(room)]);
            if whole {
                push(text(&partial.line));
                self.partial.remove(&lane);
            } else {
                partial.touched = Instant::now();
            }
        }
    }

    /// Whether a lane has an unfinished line.
    pub(super) fn has_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Takes all unfinished lines.
    pub(super) fn rest(&mut self) -> Vec<String> {
        self.take_older(Duration::ZERO)
    }

    /// Takes the unfinished lines to which nothing was added for `age`. Later output of their lanes
    /// begins a new line.
    pub(super) fn take_older(&mut self, age: Duration) -> Vec<String> {
        let is_older = |partial: &PartialLine| partial.touched.elapsed() >= age;
        let mut lanes: Vec<u64> = self
            .partial
            .iter()
            .filter(|(_, partial)| is_older(partial))
            .map(|(lane, _)| *lane)
            .collect();
        lanes.sort_unstable();
        lanes
            .iter()
            .filter_map(|lane| self.partial.remove(lane))
            .map(|partial| text(&partial.line))
            .collect()
    }

    /// Drops the unfinished lines, because the bytes that follow them were lost.
    pub(super) fn forget(&mut self) {
        self.partial.clear();
    }
}

fn text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8_lossy(line).into_owned()
}
