//! Bytes that come in chunks, as text whose characters are never cut in two.
//!
//! What is no UTF-8 becomes U+FFFD, once for each maximal ill-formed part, exactly as a whole
//! conversion at the end would have it.

const REPLACEMENT: &str = "\u{FFFD}";

/// Turns the pieces of one stream into text.
#[derive(Debug, Default)]
pub(crate) struct Utf8Stitcher {
    /// The beginning of a character whose end has not come yet; at most 3 bytes.
    pending: Vec<u8>,
    /// Text of a piece that could not be lent out as it is.
    scratch: String,
}

impl Utf8Stitcher {
    /// Bytes that wait for the rest of their character.
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// The text that is complete after `piece`; may be empty.
    pub(crate) fn push<'a>(&'a mut self, piece: &'a [u8]) -> &'a str {
        if self.pending.is_empty()
            && let Ok(text) = std::str::from_utf8(piece)
        {
            return text;
        }
        self.scratch.clear();
        let rest = self.complete_pending(piece);
        self.append(rest);
        &self.scratch
    }

    /// What is left when the stream has ended: U+FFFD for a character that never ended.
    pub(crate) fn finish(&mut self) -> &'static str {
        if self.pending.is_empty() {
            return "";
        }
        self.pending.clear();
        REPLACEMENT
    }

    /// Moves bytes to the pending character until it is complete or turns out to be none.
    fn complete_pending<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let mut rest = piece;
        while !self.pending.is_empty() {
            let Some((next, after)) = rest.split_first() else {
                break;
            };
            self.pending.push(*next);
            match std::str::from_utf8(&self.pending) {
                Ok(text) => {
                    self.scratch.push_str(text);
                    self.pending.clear();
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => {
                    // The new byte broke it, and may itself begin a character.
                    self.scratch.push_str(REPLACEMENT);
                    self.pending.clear();
                    break;
                }
            }
            rest = after;
        }
        rest
    }

    fn append(&mut self, mut rest: &[u8]) {
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => return self.scratch.push_str(text),
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.scratch
                        .push_str(std::str::from_utf8(valid).unwrap_or_default());
                    match error.error_len() {
                        Some(length) => {
                            self.scratch.push_str(REPLACEMENT);
                            rest = &after[length..];
                        }
                        None => return self.pending.extend_from_slice(after),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stitched(pieces: &[&[u8]]) -> String {
        let mut stitcher = Utf8Stitcher::default();
        let mut text = String::new();
        for piece in pieces {
            text.push_str(stitcher.push(piece));
        }
        text.push_str(stitcher.finish());
        text
    }

    #[test]
    fn every_cut_gives_what_the_whole_gives() {
        let samples: [&[u8]; 9] = [
            "héllo €uro 🦀 end".as_bytes(),
            b"plain",
            b"\xff\xfe",
            b"a\xc3",
            b"\xe2\x82x\xe2\x82\xac",
            b"\xf0\x9f\xa6\xf0\x9f\xa6\x80",
            b"\xc3\xc3\xa9",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80\xe2",
        ];
        for sample in samples {
            let whole = String::from_utf8_lossy(sample);
            for first in 0..=sample.len() {
                for second in first..=sample.len() {
                    let pieces = [&sample[..first], &sample[first..second], &sample[second..]];
                    assert_eq!(
                        stitched(&pieces),
                        whole,
                        "{sample:?} cut at {first}, {second}"
                    );
                }
            }
            let single: Vec<&[u8]> = sample.chunks(1).collect();
            assert_eq!(stitched(&single), whole, "{sample:?} byte by byte");
        }
    }

    #[test]
    fn a_character_waits_for_its_end() {
        let mut stitcher = Utf8Stitcher::default();
        assert_eq!(stitcher.push(b"a\xe2\x82"), "a");
        assert_eq!(stitcher.push(b"\xac"), "€");
        assert_eq!(stitcher.finish(), "");
    }
}
