//! A followed detached command as NDJSON: output with the offset behind it, the exit last.
//!
//! A client that attaches again at the last offset that it saw gets what follows, nothing missing
//! and nothing twice. As text, an offset never lies behind a character that has not been sent
//! whole; where both streams are cut in the middle of one at once it may lie before text that was
//! sent, which `encoding=base64` never does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use stacyvm_orchestrator::{AttachedExec, ExecEvent, ExecExit};
use stacyvm_types::{AttachQuery, OutputEncoding, OutputStream};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::ndjson::{LineBody, write_exit, write_json, write_output_line};
use crate::utf8::Utf8Stitcher;

/// The part of a command's output that is asked for, and its form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttachOptions {
    pub(crate) offset: u64,
    pub(crate) follow: bool,
    pub(crate) encoding: OutputEncoding,
}

impl Default for AttachOptions {
    fn default() -> Self {
        AttachQuery::default().into()
    }
}

impl From<AttachQuery> for AttachOptions {
    /// Attaching means following, unless the query switches it off.
    fn from(query: AttachQuery) -> Self {
        Self {
            offset: query.offset.unwrap_or(0),
            follow: query.follow.unwrap_or(true),
            encoding: query.encoding.unwrap_or_default(),
        }
    }
}

/// An item of a followed output, with the offset to go on from.
#[derive(Debug)]
pub(crate) enum OutputItem {
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

/// Turns the events of one attachment into items with offsets.
#[derive(Debug)]
pub(crate) struct Follower {
    encoding: OutputEncoding,
    /// The offset behind what has come.
    offset: u64,
    streams: [Utf8Stitcher; 2],
    /// Where the characters begin that wait in each stream.
    waiting_from: [Option<u64>; 2],
}

impl Follower {
    /// For an attachment that was asked for from `offset` on.
    pub(crate) fn new(offset: u64, encoding: OutputEncoding) -> Self {
        Self {
            encoding,
            offset,
            streams: Default::default(),
            waiting_from: [None; 2],
        }
    }

    /// The items of an event; nothing follows `End` or `Exit`.
    pub(crate) fn on_event(&mut self, event: ExecEvent) -> Vec<OutputItem> {
        match event {
            ExecEvent::Resumed(offset) => self.resume(offset),
            ExecEvent::Output(stream, bytes) => self.output(stream, bytes).into_iter().collect(),
            // A character that is incomplete here comes whole when the client attaches again.
            ExecEvent::End => vec![OutputItem::End],
            ExecEvent::Exit(exit) => self.finish(Some(OutputItem::Exit(exit))),
        }
    }

    fn resume(&mut self, offset: u64) -> Vec<OutputItem> {
        // Beyond the end there was nothing to lose.
        let lost = offset.saturating_sub(self.offset);
        let gap = (lost > 0).then_some(OutputItem::Gap { lost, offset });
        let pieces = match gap {
            Some(gap) => self.finish(Some(gap)),
            None => Vec::new(),
        };
        self.offset = offset;
        pieces
    }

    fn output(&mut self, stream: OutputStream, data: Bytes) -> Option<OutputItem> {
        let index = match stream {
            OutputStream::Stdout => 0,
            OutputStream::Stderr => 1,
        };
        self.offset += data.len() as u64;
        if self.encoding == OutputEncoding::Base64 {
            let offset = self.offset;
            return Some(OutputItem::Exact {
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
        (!text.is_empty()).then_some(OutputItem::Text {
            stream,
            data: text,
            offset,
        })
    }

    /// Flushes incomplete characters, and then gives `last`.
    fn finish(&mut self, last: Option<OutputItem>) -> Vec<OutputItem> {
        self.waiting_from = [None; 2];
        let streams = [OutputStream::Stdout, OutputStream::Stderr];
        let offset = self.offset;
        let rest = self
            .streams
            .iter_mut()
            .zip(streams)
            .filter_map(|(stitcher, stream)| {
                let data = stitcher.finish().to_owned();
                (!data.is_empty()).then_some(OutputItem::Text {
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
fn write(buffer: &mut BytesMut, piece: OutputItem) -> bool {
    match piece {
        OutputItem::Text {
            stream,
            data,
            offset,
        } => {
            let stream = match stream {
                OutputStream::Stdout => "stdout",
                OutputStream::Stderr => "stderr",
            };
            write_output_line(buffer, stream, &data, Some(offset));
        }
        OutputItem::Exact {
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
        OutputItem::Gap { lost, offset } => line(
            buffer,
            &Gap {
                stream: "gap",
                data: "",
                lost,
                offset,
            },
        ),
        OutputItem::End => return true,
        OutputItem::Exit(exit) => {
            write_exit(buffer, &exit);
            return true;
        }
    }
    false
}

fn line(buffer: &mut BytesMut, value: &impl Serialize) {
    write_json(buffer, value);
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
            // Nothing follows the last item.
            let mut pieces = follower.on_event(event).into_iter();
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
            for piece in follower.on_event(event) {
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
        let mut all = Follower::new(5, OutputEncoding::Utf8);
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
        let mut first = Follower::new(0, OutputEncoding::Utf8);
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
            let mut first = Follower::new(0, OutputEncoding::Utf8);
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
            let mut second = Follower::new(offset, OutputEncoding::Utf8);
            let rest = &bytes[usize::try_from(offset).unwrap()..];
            let buffer = written(&mut second, vec![out(rest), ExecEvent::End]);
            for line in lines(&buffer) {
                seen.push_str(line["data"].as_str().unwrap());
            }
            prop_assert_eq!(seen, text);
        }
    }
}
