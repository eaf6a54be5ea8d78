//! A followed detached command as NDJSON: output with the offset behind it, the exit last.
//!
//! Whoever attaches again at the last offset that it saw gets what follows, nothing missing and
//! nothing twice. As text, an offset never lies behind a character that has not been sent whole;
//! where both streams are cut in the middle of one at once it may lie before text that was sent,
//! which `encoding=base64` never does.

use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use serde::Serialize;
use stacyvm_orchestrator::AttachedExec;
use stacyvm_provider::ops::AttachEvent;
use stacyvm_types::OutputStream;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::download::Broken;
use crate::ndjson::{FULL, write_exit, write_line, write_piece};
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

/// Turns the events of one attachment into lines.
pub(crate) struct Writer {
    encoding: Encoding,
    /// The offset behind what has come.
    offset: u64,
    streams: [Utf8Stitcher; 2],
    /// Where the characters begin that wait in each stream.
    waiting_from: [Option<u64>; 2],
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
struct Exact<'a> {
    stream: &'static str,
    data_b64: &'a str,
    offset: u64,
}

impl Writer {
    /// For an attachment that was asked for from `offset` on.
    pub(crate) fn new(offset: u64, encoding: Encoding) -> Self {
        Self {
            encoding,
            offset,
            streams: Default::default(),
            waiting_from: [None; 2],
        }
    }

    /// Writes what an event has to say; `true` when it was the last.
    pub(crate) fn write(&mut self, buffer: &mut BytesMut, event: &AttachEvent) -> bool {
        match event {
            AttachEvent::Resumed(offset) => self.resume(buffer, *offset),
            AttachEvent::Output(stream, bytes) => self.output(buffer, *stream, bytes),
            AttachEvent::End => {
                self.finish(buffer);
                return true;
            }
            AttachEvent::Exit(exit) => {
                self.finish(buffer);
                write_exit(buffer, exit);
                return true;
            }
        }
        false
    }

    fn resume(&mut self, buffer: &mut BytesMut, offset: u64) {
        // Beyond the end there was nothing to lose.
        let lost = offset.saturating_sub(self.offset);
        if lost > 0 {
            self.finish(buffer);
            let gap = Gap {
                stream: "gap",
                data: "",
                lost,
                offset,
            };
            line(buffer, &gap);
        }
        self.offset = offset;
    }

    fn output(&mut self, buffer: &mut BytesMut, stream: OutputStream, bytes: &Bytes) {
        let (index, name) = match stream {
            OutputStream::Stdout => (0, "stdout"),
            OutputStream::Stderr => (1, "stderr"),
        };
        let before = self.offset;
        self.offset += bytes.len() as u64;
        if self.encoding == Encoding::Base64 {
            let exact = Exact {
                stream: name,
                data_b64: &STANDARD.encode(bytes),
                offset: self.offset,
            };
            line(buffer, &exact);
            return;
        }
        let waited = self.streams[index].waiting();
        let text = self.streams[index].push(bytes).to_owned();
        let waiting = self.streams[index].waiting();
        self.waiting_from[index] = match waiting {
            0 => None,
            // Still the same unfinished character.
            _ if waiting == waited + bytes.len() && waited > 0 => self.waiting_from[index],
            _ => Some(self.offset - waiting as u64),
        };
        debug_assert!(self.waiting_from[index].is_none_or(|from| from >= before || waited > 0));
        if !text.is_empty() {
            let safe = self.waiting_from.iter().flatten().min();
            let offset = safe.copied().unwrap_or(self.offset);
            write_piece(buffer, name, &text, Some(offset));
        }
    }

    /// What waits for an end that does not come.
    fn finish(&mut self, buffer: &mut BytesMut) {
        self.waiting_from = [None; 2];
        for (stream, name) in self.streams.iter_mut().zip(["stdout", "stderr"]) {
            let text = stream.finish();
            if !text.is_empty() {
                write_piece(buffer, name, text, Some(self.offset));
            }
        }
    }
}

fn line(buffer: &mut BytesMut, value: &impl Serialize) {
    write_line(buffer, value);
    buffer.put_slice(b"\n");
}

/// The body of a followed command.
pub(crate) struct AttachBody {
    exec: AttachedExec,
    writer: Writer,
    buffer: BytesMut,
    done: bool,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AttachBody {
    pub(crate) fn new(
        exec: AttachedExec,
        writer: Writer,
        cut: WaitForCancellationFutureOwned,
    ) -> Self {
        Self {
            exec,
            writer,
            buffer: BytesMut::new(),
            done: false,
            cut: Box::pin(cut),
        }
    }
}

impl Body for AttachBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let mut lost = None;
        while !this.done && this.buffer.len() < FULL {
            match this.exec.events.poll_recv(context) {
                Poll::Ready(Some(event)) => {
                    this.done = this.writer.write(&mut this.buffer, &event);
                }
                Poll::Ready(None) => {
                    this.done = true;
                    lost = Some("the connection to the command was lost");
                }
                Poll::Pending => break,
            }
        }
        if !this.buffer.is_empty() {
            // A lost connection is told next time: what came before is not thrown away with it.
            this.done &= lost.is_none();
            return Poll::Ready(Some(Ok(Frame::data(this.buffer.split().freeze()))));
        }
        if let Some(lost) = lost {
            return Poll::Ready(Some(Err(lost.into())));
        }
        if this.done {
            return Poll::Ready(None);
        }
        if this.cut.as_mut().poll(context).is_ready() {
            this.done = true;
            return Poll::Ready(Some(Err("the server is shutting down".into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.done && self.buffer.is_empty()
    }
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

    fn write(lines: &mut Writer, events: &[AttachEvent]) -> BytesMut {
        let mut buffer = BytesMut::new();
        for event in events {
            lines.write(&mut buffer, event);
        }
        buffer
    }

    fn out(bytes: &[u8]) -> AttachEvent {
        AttachEvent::Output(OutputStream::Stdout, Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn a_gap_is_told_with_what_was_lost() {
        let mut all = Writer::new(5, Encoding::Text);
        let events = [
            AttachEvent::Resumed(5),
            out(b"ab"),
            AttachEvent::Resumed(100),
            out(b"c"),
            AttachEvent::End,
        ];
        let buffer = write(&mut all, &events);
        let text = std::str::from_utf8(&buffer).unwrap();
        assert_eq!(
            text,
            "{\"stream\":\"stdout\",\"data\":\"ab\",\"offset\":7}\n\
             {\"stream\":\"gap\",\"data\":\"\",\"lost\":93,\"offset\":100}\n\
             {\"stream\":\"stdout\",\"data\":\"c\",\"offset\":101}\n"
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
            let mut first = Writer::new(0, Encoding::Text);
            let (mut seen, mut offset, mut at) = (String::new(), 0_u64, 0);
            for length in pieces.iter().take(cut) {
                let end = (at + length).min(bytes.len());
                let buffer = write(&mut first, &[out(&bytes[at..end])]);
                at = end;
                for line in lines(&buffer) {
                    seen.push_str(line["data"].as_str().unwrap());
                    offset = line["offset"].as_u64().unwrap();
                }
            }
            let mut second = Writer::new(offset, Encoding::Text);
            let rest = &bytes[usize::try_from(offset).unwrap()..];
            let buffer = write(&mut second, &[out(rest), AttachEvent::End]);
            for line in lines(&buffer) {
                seen.push_str(line["data"].as_str().unwrap());
            }
            prop_assert_eq!(seen, text);
        }
    }
}
