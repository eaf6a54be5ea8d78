//! From pieces of several lanes to whole lines.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Bytes of one line; the rest of a longer one is dropped.
pub(super) const MAX_LINE: usize = 8 * 1024;

/// Lines that have begun.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    begun: HashMap<u64, Begun>,
}

#[derive(Debug)]
struct Begun {
    line: Vec<u8>,
    /// When something was added to it last.
    touched: Instant,
}

impl Cutter {
    /// Adds to a lane and hands out the lines that are whole now.
    pub(super) fn cut(&mut self, lane: u64, bytes: &[u8], keep: &mut impl FnMut(String)) {
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let whole = parts.peek().is_some();
            if part.is_empty() && !whole {
                return;
            }
            let begun = self.begun.entry(lane).or_insert_with(|| Begun {
                line: Vec::new(),
                touched: Instant::now(),
            });
            let room = MAX_LINE.saturating_sub(begun.line.len());
            begun.line.extend_from_slice(&part[..part.len().min(room)]);
            if whole {
                keep(text(&begun.line));
                self.begun.remove(&lane);
            } else {
                begun.touched = Instant::now();
            }
        }
    }

    /// Whether a line has begun and is not whole.
    pub(super) fn has_begun(&self) -> bool {
        !self.begun.is_empty()
    }

    /// The unfinished lines.
    pub(super) fn rest(&mut self) -> Vec<String> {
        self.quiet(Duration::ZERO)
    }

    /// The unfinished lines to which nothing was added for so long. What comes later in their
    /// lane begins a new line.
    pub(super) fn quiet(&mut self, quiet: Duration) -> Vec<String> {
        let over = |begun: &Begun| begun.touched.elapsed() >= quiet;
        let mut lanes: Vec<u64> = self
            .begun
            .iter()
            .filter(|(_, begun)| over(begun))
            .map(|(lane, _)| *lane)
            .collect();
        lanes.sort_unstable();
        lanes
            .iter()
            .filter_map(|lane| self.begun.remove(lane))
            .map(|begun| text(&begun.line))
            .collect()
    }

    /// Forgets what has begun: its middle is missing.
    pub(super) fn forget(&mut self) {
        self.begun.clear();
    }
}

fn text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8_lossy(line).into_owned()
}
