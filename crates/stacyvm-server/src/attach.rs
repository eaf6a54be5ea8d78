//! A followed detached command as NDJSON: output with the offset behind it, the exit last.
//!
//! Whoever attaches again at the last offset that it saw gets what follows, nothing missing and
//! nothing twice. As text, an offset never lies behind a character that has not been sent whole;
//! where both streams are cut in the middle of one at once it may lie before text that was sent,
//! which `encoding=base64` never does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use stacyvm_orchestrator::{AttachedExec, ExecEvent, ExecExit};
use stacyvm_types::OutputStream;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::ndjson::{LineBody, write_exit, write_line, write_piece};
use crate::utf8::Utf8Stitcher;

/// How output is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As text; what is no UTF-8 becomes U+FFFD.
    #[default]
    Text,
    /// Every byte as it is, in `data_b64`.
    Base64,
}

/// One thing that a follower is told.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Output as text, and the offset to go on from.
    Text {
        stream: OutputStream,
        data: String,
        offset: u64,
    },
    /// Output as it is, and the offset behind it.
    Exact {
        stream: OutputStream,
        data: Bytes,
        offset: u64,
    },
    /// Output that is no longer kept, and the offset behind it.
    Gap { lost: u64, offset: u64 },
    /// There is no more at present.
    End,
    /// The command's end.
    Exit(ExecExit),
}

/// Turns the events of one attachment into what its follower is told, with offsets.
#[derive(Debug)]
pub(crate) struct Follower {
    encoding: Encoding,
    /// The offset behind what has come.
    offset: u64,
    streams: [Utf8Stitcher; 2],
    /// Where the characters begin that wait in each stream.
    waiting_from: [Option<u64>; 2],
}

impl Follower {
    /// For an attachment that was asked for from `offset` on.
    pub(crate) fn new(offset: u64, encoding: Encoding) -> Self {
        Self {
            encoding,
            offset,
            streams: Default::default(),
            waiting_from: [None; 2],
        }
    }

    /// What an event means to the follower; after `End` or `Exit` comes nothing.
    pub(crate) fn hear(&mut self, event: ExecEvent) -> Vec<Piece> {
        match event {
            ExecEvent::Resumed(offset) => self.resume(offset),
            ExecEvent::Output(stream, bytes) => self.output(stream, bytes).into_iter().collect(),
            // A character that is half there comes whole to whoever asks again.
            ExecEvent::End => vec![Piece::End],
            ExecEvent::Exit(exit) => self.finish(Some(Piece::Exit(exit))),
        }
    }

    fn resume(&mut self, offset: u64) -> Vec<Piece> {
        // Beyond the end there was nothing to lose.
        let lost = offset.saturating_sub(self.offset);
        let gap = (lost > 0).then_some(Piece::Gap { lost, offset });
        let pieces = match gap {
            Some(gap) => self.finish(Some(gap)),
            None => Vec::new(),
        };
        self.offset = offset;
        pieces
    }

    fn output(&mut self, stream: OutputStream, data: Bytes) -> Option<Piece> {
        let index = match stream {
            OutputStream::Stdout => 0,
            OutputStream::Stderr => 1,
        };
        self.offset += data.len() as u64;
        if self.encoding == Encoding::Base64 {
            let offset = self.offset;
            return Some(Piece::Exact {
                stream,
                data,
                offset,
            });
        }
        let waited = self.streams[index].waiting();
        let text = self.streams[index].push(&data).to_owned();
        let waiting = self.streams[index].waiting();
        self.waiting_from[index] = match waiting {
            0 => None,
            // Still the same unfinished character.
            _ if waited > 0 && waiting == waited + data.len() => self.waiting_from[index],
            _ => Some(self.offset - waiting as u64),
        };
        let safe = self.waiting_from.iter().flatten().min();
        let offset = safe.copied().unwrap_or(self.offset);
        (!text.is_empty()).then_some(Piece::Text {
            stream,
            data: text,
            offset,
        })
    }

    /// What waits for an end that does not come, and then `last`.
    fn finish(&mut self, last: Option<Piece>) -> Vec<Piece> {
        self.waiting_from = [None; 2];
        let streams = [OutputStream::Stdout, OutputStream::Stderr];
        let offset = self.offset;
        let rest = self
            .streams
            .iter_mut()
            .zip(streams)
            .filter_map(|(stitcher, stream)| {
                let data = stitcher.finish().to_owned();
                (!data.is_empty()).then_some(Piece::Text {
                    stream,
                    data,
                    offset,
                })
            });
        rest.chain(last).collect()
    }
}

#[derive(Serialize)]
struct Gap {
    stream: &'static str,
    data: &'static str,
    /// Bytes that are no longer kept.
    lost: u64,
    offset: u64,
}

#[derive(Serialize)]
struct Exact {
    stream: OutputStream,
    data_b64: String,
    offset: u64,
}

/// Writes a piece as a line; `true` when it was the last.
fn write(buffer: &mut BytesMut, piece: Piece) -> bool {
    match piece {
        Piece::Text {
            stream,
            data,
            offset,
        } => {
            let stream = match stream {
                OutputStream::Stdout => "stdout",
                OutputStream::Stderr => "stderr",
            };
            write_piece(buffer, stream, &data, Some(offset));
        }
        Piece::Exact {
            stream,
            data,
            offset,
        } => line(
            buffer,
            &Exact {
                stream,
                data_b64: STANDARD.encode(&data),
                offset,
            },
        ),
        Piece::Gap { lost, offset } => line(
            buffer,
            &Gap {
                stream: "gap",
                data: "",
                lost,
                offset,
            },
        ),
        Piece::End => return true,
        Piece::Exit(exit) => {
            write_exit(buffer, &exit);
            return true;
        }
    }
    false
}

fn line(buffer: &mut BytesMut, value: &impl Serialize) {
    write_line(buffer, value);
    buffer.put_slice(b"\n");
}

/// The body of a followed command.
pub(crate) fn attach_body(
    exec: AttachedExec,
    mut follower: Follower,
    cut: WaitForCancellationFutureOwned,
) -> LineBody<ExecEvent, impl FnMut(&mut BytesMut, ExecEvent) -> bool> {
    LineBody::new(
        exec.events,
        Some(exec.control),
        cut,
        move |buffer: &mut BytesMut, event| {
            // Nothing comes behind the last.
            let mut pieces = follower.hear(event).into_iter();
            pieces.any(|piece| write(buffer, piece))
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn lines(buffer: &BytesMut) -> Vec<Value> {
        let text = std::str::from_utf8(buffer).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn written(follower: &mut Follower, events: Vec<ExecEvent>) -> BytesMut {
        let mut buffer = BytesMut::new();
        for event in events {
            for piece in follower.hear(event) {
                write(&mut buffer, piece);
            }
        }
        buffer
    }

    fn out(bytes: &[u8]) -> ExecEvent {
        ExecEvent::Output(OutputStream::Stdout, Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn a_gap_is_told_with_what_was_lost() {
        let mut all = Follower::new(5, Encoding::Text);
        let events = vec![
            ExecEvent::Resumed(5),
            out(b"ab"),
            ExecEvent::Resumed(100),
            out(b"c"),
            ExecEvent::End,
        ];
        let buffer = written(&mut all, events);
        let text = std::str::from_utf8(&buffer).unwrap();
        assert_eq!(
            text,
            "{\"stream\":\"stdout\",\"data\":\"ab\",\"offset\":7}\n\
             {\"stream\":\"gap\",\"data\":\"\",\"lost\":93,\"offset\":100}\n\
             {\"stream\":\"stdout\",\"data\":\"c\",\"offset\":101}\n"
        );
    }

    #[test]
    fn a_look_that_ends_in_the_middle_of_a_character_leaves_it_for_the_next() {
        let mut first = Follower::new(0, Encoding::Text);
        let buffer = written(&mut first, vec![out(b"a\xe2\x82"), ExecEvent::End]);
        let seen = lines(&buffer);
        assert_eq!(seen.len(), 1);
        assert_eq!(
            (&seen[0]["data"], &seen[0]["offset"]),
            (&"a".into(), &1.into())
        );
    }

    proptest! {
        /// Cut anywhere and attached again at the last offset seen, the text is the same.
        #[test]
        fn attaching_again_gives_the_rest(
            text in "[aé€😀]{0,40}",
            pieces in prop::collection::vec(1usize..7, 1..60),
            cut in 0usize..40,
        ) {
            let bytes = text.as_bytes();
            let mut first = Follower::new(0, Encoding::Text);
            let (mut seen, mut offset, mut at) = (String::new(), 0_u64, 0);
            for length in pieces.iter().take(cut) {
                let end = (at + length).min(bytes.len());
                let buffer = written(&mut first, vec![out(&bytes[at..end])]);
                at = end;
                for line in lines(&buffer) {
                    seen.push_str(line["data"].as_str().unwrap());
                    offset = line["offset"].as_u64().unwrap();
                }
            }
            let mut second = Follower::new(offset, Encoding::Text);
            let rest = &bytes[usize::try_from(offset).unwrap()..];
            let buffer = written(&mut second, vec![out(rest), ExecEvent::End]);
            for line in lines(&buffer) {
                seen.push_str(line["data"].as_str().unwrap());
            }
            prop_assert_eq!(seen, text);
        }
    }
}
