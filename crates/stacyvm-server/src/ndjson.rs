//! A running command as NDJSON: one object a line, the exit last.
//!
//! Nothing is buffered beyond what is waiting at the moment when the connection can take more: a
//! slow reader slows the command through the bounded channel. Dropping the body, which is what a
//! vanished client leads to, drops the command and so kills its process tree.
//!
//! Some clients split lines as Python's `str.splitlines` does, also at U+0085, U+2028 and U+2029.
//! JSON allows these raw, but here they are always escaped.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use stacyvm_orchestrator::{ExecControl, ExecEvent, ExecExit, RunningExec};
use stacyvm_types::{ExitReason, GoDuration, OutputStream};
use tokio::sync::mpsc;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::download::BodyError;
use crate::utf8::Utf8Stitcher;

/// Waiting chunks are put into one write until it is this long.
const MAX_WRITE: usize = 128 * 1024;

/// A body of lines that are made of events as these come.
pub(crate) struct LineBody<E, W> {
    events: mpsc::Receiver<E>,
    /// Writes an event; `true` when it was the last.
    write: W,
    buffer: BytesMut,
    done: bool,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Lives as long as the body: dropping it says that no more input comes.
    _control: Option<mpsc::Sender<ExecControl>>,
}

impl<E, W> LineBody<E, W>
where
    W: FnMut(&mut BytesMut, E) -> bool,
{
    pub(crate) fn new(
        events: mpsc::Receiver<E>,
        control: Option<mpsc::Sender<ExecControl>>,
        cut: WaitForCancellationFutureOwned,
        write: W,
    ) -> Self {
        Self {
            events,
            write,
            buffer: BytesMut::new(),
            done: false,
            cut: Box::pin(cut),
            _control: control,
        }
    }

    /// With an event that has come already.
    pub(crate) fn starting_with(mut self, first: E) -> Self {
        self.done = (self.write)(&mut self.buffer, first);
        self
    }
}

impl<E, W> Body for LineBody<E, W>
where
    W: FnMut(&mut BytesMut, E) -> bool + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut lost = false;
        while !this.done && !lost && this.buffer.len() < MAX_WRITE {
            match this.events.poll_recv(context) {
                Poll::Ready(Some(event)) => this.done = (this.write)(&mut this.buffer, event),
                Poll::Ready(None) => lost = true,
                Poll::Pending => break,
            }
        }
        if !this.buffer.is_empty() {
            // A lost command is told next time: what came before is not thrown away with it.
            return Poll::Ready(Some(Ok(Frame::data(this.buffer.split().freeze()))));
        }
        if this.done {
            return Poll::Ready(None);
        }
        if lost {
            this.done = true;
            return Poll::Ready(Some(Err("what was to be told was lost".into())));
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

/// The body of a streamed exec.
pub(crate) fn exec_body(
    exec: RunningExec,
    cut: WaitForCancellationFutureOwned,
) -> LineBody<ExecEvent, impl FnMut(&mut BytesMut, ExecEvent) -> bool> {
    let mut stdout = Utf8Stitcher::default();
    let mut stderr = Utf8Stitcher::default();
    LineBody::new(
        exec.events,
        Some(exec.control),
        cut,
        move |buffer: &mut BytesMut, event| {
            match event {
                ExecEvent::Output(OutputStream::Stdout, bytes) => {
                    write_output(buffer, "stdout", stdout.push(&bytes));
                }
                ExecEvent::Output(OutputStream::Stderr, bytes) => {
                    write_output(buffer, "stderr", stderr.push(&bytes));
                }
                ExecEvent::Exit(exit) => {
                    write_output(buffer, "stdout", stdout.finish());
                    write_output(buffer, "stderr", stderr.finish());
                    write_exit(buffer, &exit);
                    return true;
                }
                // Only followers of a detached command are told these.
                ExecEvent::Resumed(_) | ExecEvent::End => {}
            }
            false
        },
    )
}

/// Writes a line of output; nothing when there is no text.
pub(crate) fn write_output(buffer: &mut BytesMut, stream: &'static str, text: &str) {
    if !text.is_empty() {
        write_output_line(buffer, stream, text, None);
    }
}

/// Writes a line of output, with the offset behind it where there is one.
pub(crate) fn write_output_line(
    buffer: &mut BytesMut,
    stream: &'static str,
    text: &str,
    offset: Option<u64>,
) {
    // Room for the text as it is; escapes make it grow on the way.
    buffer.reserve(text.len() + 64);
    buffer.put_slice(b"{\"stream\":\"");
    buffer.put_slice(stream.as_bytes());
    buffer.put_slice(b"\",\"data\":");
    write_json(buffer, text);
    if let Some(offset) = offset {
        buffer.put_slice(format!(",\"offset\":{offset}").as_bytes());
    }
    buffer.put_slice(b"}\n");
}

#[derive(Serialize)]
struct ExitLine {
    stream: &'static str,
    data: &'static str,
    exit_code: i32,
    duration: GoDuration,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ExitReason>,
}

/// Writes the last line.
pub(crate) fn write_exit(buffer: &mut BytesMut, exit: &ExecExit) {
    let line = ExitLine {
        stream: "exit",
        data: "",
        exit_code: exit.exit_code,
        duration: exit.duration.into(),
        reason: Some(exit.reason).filter(|reason| *reason != ExitReason::Exit),
    };
    serde_json::to_writer(buffer.writer(), &line).expect("an exit line is always JSON");
    buffer.put_slice(b"\n");
}

/// Compact JSON without the three characters that some call line ends.
struct SingleLineFormatter(CompactFormatter);

/// Compact JSON of `value` in one line, whatever a client takes for a line end.
pub(crate) fn write_json(buffer: &mut BytesMut, value: &(impl Serialize + ?Sized)) {
    let mut serializer =
        Serializer::with_formatter(buffer.writer(), SingleLineFormatter(CompactFormatter));
    value
        .serialize(&mut serializer)
        .expect("our own types are always JSON, and memory takes them");
}

impl Formatter for SingleLineFormatter {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.is_ascii() {
            return self.0.write_string_fragment(writer, fragment);
        }
        let mut rest = fragment;
        while let Some(at) = rest.find(['\u{85}', '\u{2028}', '\u{2029}']) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut characters = from.chars();
            if let Some(character) = characters.next() {
                write!(writer, "\\u{:04x}", u32::from(character))?;
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    fn body(
        depth: usize,
    ) -> (
        mpsc::Sender<ExecEvent>,
        impl Body<Data = Bytes, Error = BodyError> + Unpin,
        CancellationToken,
    ) {
        let (sender, events) = mpsc::channel(depth);
        let (control, _) = mpsc::channel(1);
        let exec = RunningExec {
            exec_id: 1,
            pid: 2,
            events,
            control,
            timeout: None,
        };
        let cut = CancellationToken::new();
        let body = exec_body(exec, cut.clone().cancelled_owned());
        (sender, body, cut)
    }

    fn output(stream: OutputStream, bytes: &'static [u8]) -> ExecEvent {
        ExecEvent::Output(stream, Bytes::from_static(bytes))
    }

    fn exit(reason: ExitReason) -> ExecEvent {
        ExecEvent::Exit(ExecExit {
            exit_code: 3,
            signal: None,
            reason,
            duration: Duration::from_micros(12_300),
        })
    }

    async fn frame(
        body: &mut (impl Body<Data = Bytes, Error = BodyError> + Unpin),
    ) -> Option<Result<String, BodyError>> {
        let frame = body.frame().await?;
        Some(frame.map(|frame| String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()))
    }

    #[tokio::test]
    async fn lines_are_exactly_those_of_the_contract() {
        let (sender, mut body, _cut) = body(8);
        sender
            .send(output(OutputStream::Stdout, b"a\"\\\n\x01\x7f"))
            .await
            .unwrap();
        assert_eq!(
            frame(&mut body).await.unwrap().unwrap(),
            "{\"stream\":\"stdout\",\"data\":\"a\\\"\\\\\\n\\u0001\x7f\"}\n"
        );
        sender
            .send(output(OutputStream::Stderr, b"e\xe2\x82"))
            .await
            .unwrap();
        sender
            .send(output(OutputStream::Stdout, b"o"))
            .await
            .unwrap();
        let (begin, end) = (
            output(OutputStream::Stdout, b"\xe2\x82"),
            output(OutputStream::Stdout, b"\xac"),
        );
        sender.send(begin).await.unwrap();
        sender.send(end).await.unwrap();
        sender.send(exit(ExitReason::Timeout)).await.unwrap();
        assert_eq!(
            frame(&mut body).await.unwrap().unwrap(),
            "{\"stream\":\"stderr\",\"data\":\"e\"}\n{\"stream\":\"stdout\",\"data\":\"o\"}\n\
             {\"stream\":\"stdout\",\"data\":\"€\"}\n\
             {\"stream\":\"stderr\",\"data\":\"\u{FFFD}\"}\n\
             {\"stream\":\"exit\",\"data\":\"\",\"exit_code\":3,\"duration\":\"12.3ms\",\"reason\":\"timeout\"}\n"
        );
        assert!(frame(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn a_plain_exit_has_no_reason() {
        let (sender, mut body, _cut) = body(8);
        sender.send(exit(ExitReason::Exit)).await.unwrap();
        assert_eq!(
            frame(&mut body).await.unwrap().unwrap(),
            "{\"stream\":\"exit\",\"data\":\"\",\"exit_code\":3,\"duration\":\"12.3ms\"}\n"
        );
    }

    #[tokio::test]
    async fn no_line_holds_what_a_client_may_take_for_a_line_end() {
        let (sender, mut body, _cut) = body(8);
        let text = "é\u{85}x\u{2028}\u{2029}\u{b}\u{c}\u{1c}\r🦀";
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let event = ExecEvent::Output(OutputStream::Stdout, bytes);
        sender.send(event).await.unwrap();
        let line = frame(&mut body).await.unwrap().unwrap();
        let breaks = |c: char| matches!(c, '\u{b}'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
        assert!(!line.trim_end().contains(breaks), "{line:?}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["data"], text);
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_stops_the_writer() {
        let (sender, mut body, _cut) = body(4);
        let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
        let mut accepted = 0;
        while sender
            .try_send(ExecEvent::Output(OutputStream::Stdout, chunk.clone()))
            .is_ok()
        {
            accepted += 1;
        }
        assert_eq!(accepted, 4);
        let first = frame(&mut body).await.unwrap().unwrap();
        assert!(
            first.len() < 2 * MAX_WRITE,
            "{} bytes in one write",
            first.len()
        );
    }

    #[tokio::test]
    async fn a_lost_command_and_a_shutdown_break_the_stream() {
        let (sender, mut lost, _cut) = body(1);
        drop(sender);
        assert!(frame(&mut lost).await.unwrap().is_err());
        let (_sender, mut stopped, cut) = body(1);
        cut.cancel();
        assert!(frame(&mut stopped).await.unwrap().is_err());
        assert!(frame(&mut stopped).await.is_none());
    }
}
