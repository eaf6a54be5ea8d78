//! What the server says, in the words of a dialect.

use axum::extract::ws::Message;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use stacyvm_provider::ops::{ExecEvent, ExecExit};
use stacyvm_types::{ErrorCode, ExitReason, GoDuration, OutputStream};

use super::opening::Dialect;
use crate::error::Failure;
use crate::utf8::Utf8Stitcher;

/// Turns what a command does into frames.
#[derive(Debug)]
pub(crate) struct Voice {
    dialect: Dialect,
    stdout: Utf8Stitcher,
    stderr: Utf8Stitcher,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame<'a> {
    Started {
        pid: u32,
        exec_id: u64,
    },
    StdinAck {
        bytes: u64,
    },
    Exit {
        exit_code: i32,
        duration: GoDuration,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<ExitReason>,
    },
    Done,
    Error {
        code: ErrorCode,
        message: &'a str,
    },
}

#[derive(Serialize)]
struct Typed<'a> {
    #[serde(rename = "type")]
    kind: OutputStream,
    data: &'a str,
}

#[derive(Serialize)]
struct Coded {
    #[serde(rename = "type")]
    kind: OutputStream,
    data_b64: String,
}

#[derive(Serialize)]
struct Plain<'a> {
    stream: OutputStream,
    data: &'a str,
}

fn message(frame: &impl Serialize) -> Message {
    let text = serde_json::to_string(frame).expect("our own frames are always JSON");
    Message::Text(text.into())
}

impl Voice {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            stdout: Utf8Stitcher::default(),
            stderr: Utf8Stitcher::default(),
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// That the command runs; the plain dialect does not say so.
    pub(crate) fn started(&self, pid: u32, exec_id: u64) -> Option<Message> {
        match self.dialect {
            Dialect::Typed { .. } => Some(message(&Frame::Started { pid, exec_id })),
            Dialect::Plain => None,
        }
    }

    /// How many bytes of input were taken since the start.
    pub(crate) fn acknowledged(&self, bytes: u64) -> Message {
        message(&Frame::StdinAck { bytes })
    }

    /// Adds the frames of an event; true when the conversation is over with it.
    pub(crate) fn event(&mut self, event: &ExecEvent, frames: &mut Vec<Message>) -> bool {
        match event {
            ExecEvent::Output(stream, bytes) => {
                self.output(*stream, bytes, frames);
                false
            }
            ExecEvent::Exit(exit) => {
                let (out, err) = (self.stdout.finish(), self.stderr.finish());
                frames.extend(text(self.dialect, OutputStream::Stdout, out));
                frames.extend(text(self.dialect, OutputStream::Stderr, err));
                frames.push(ended(exit));
                if self.dialect == Dialect::Plain {
                    frames.push(message(&Frame::Done));
                }
                true
            }
        }
    }

    fn output(&mut self, stream: OutputStream, bytes: &[u8], frames: &mut Vec<Message>) {
        if self.dialect == (Dialect::Typed { base64: true }) {
            frames.push(message(&Coded {
                kind: stream,
                data_b64: Base64Display::new(bytes, &STANDARD).to_string(),
            }));
            return;
        }
        let stitcher = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        frames.extend(text(self.dialect, stream, stitcher.push(bytes)));
    }

    /// What went wrong; the cause goes to the log.
    pub(crate) fn failed(failure: Failure) -> Message {
        let (code, words) = failure.told();
        message(&Frame::Error {
            code,
            message: &words,
        })
    }
}

/// A frame of text; none for no text.
fn text(dialect: Dialect, stream: OutputStream, data: &str) -> Option<Message> {
    if data.is_empty() {
        return None;
    }
    Some(match dialect {
        Dialect::Typed { .. } => message(&Typed { kind: stream, data }),
        Dialect::Plain => message(&Plain { stream, data }),
    })
}

fn ended(exit: &ExecExit) -> Message {
    message(&Frame::Exit {
        exit_code: exit.exit_code,
        duration: exit.duration.into(),
        reason: Some(exit.reason).filter(|reason| *reason != ExitReason::Exit),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::time::Duration;

    fn said(voice: &mut Voice, events: &[ExecEvent]) -> Vec<String> {
        let mut frames = Vec::new();
        for event in events {
            voice.event(event, &mut frames);
        }
        let text = |frame: &Message| frame.to_text().unwrap().to_owned();
        frames.iter().map(text).collect()
    }

    fn events() -> Vec<ExecEvent> {
        let output =
            |stream, bytes: &'static [u8]| ExecEvent::Output(stream, Bytes::from_static(bytes));
        vec![
            output(OutputStream::Stdout, b"a\xe2\x82"),
            output(OutputStream::Stdout, b"\xac"),
            output(OutputStream::Stderr, b"\xff\xe2"),
            ExecEvent::Exit(ExecExit {
                exit_code: 137,
                signal: Some(9),
                reason: ExitReason::Timeout,
                duration: Duration::from_micros(12_300),
            }),
        ]
    }

    #[test]
    fn typed_frames_are_exactly_these() {
        let mut voice = Voice::new(Dialect::Typed { base64: false });
        let started = voice.started(7, 3).unwrap();
        assert_eq!(
            started.to_text().unwrap(),
            r#"{"type":"started","pid":7,"exec_id":3}"#
        );
        assert_eq!(
            said(&mut voice, &events()),
            [
                r#"{"type":"stdout","data":"a"}"#,
                r#"{"type":"stdout","data":"€"}"#,
                "{\"type\":\"stderr\",\"data\":\"\u{FFFD}\"}",
                "{\"type\":\"stderr\",\"data\":\"\u{FFFD}\"}",
                r#"{"type":"exit","exit_code":137,"duration":"12.3ms","reason":"timeout"}"#,
            ]
        );
        let failed = Voice::failed(Failure::bad_request("no"));
        assert_eq!(
            failed.to_text().unwrap(),
            r#"{"type":"error","code":"BAD_REQUEST","message":"no"}"#
        );
    }

    #[test]
    fn plain_frames_are_exactly_these() {
        let mut voice = Voice::new(Dialect::Plain);
        assert_eq!(voice.started(7, 3), None);
        assert_eq!(
            said(&mut voice, &events()),
            [
                r#"{"stream":"stdout","data":"a"}"#,
                r#"{"stream":"stdout","data":"€"}"#,
                "{\"stream\":\"stderr\",\"data\":\"\u{FFFD}\"}",
                "{\"stream\":\"stderr\",\"data\":\"\u{FFFD}\"}",
                r#"{"type":"exit","exit_code":137,"duration":"12.3ms","reason":"timeout"}"#,
                r#"{"type":"done"}"#,
            ]
        );
    }

    #[test]
    fn base64_frames_hold_every_byte() {
        let mut voice = Voice::new(Dialect::Typed { base64: true });
        let frames = said(&mut voice, &events());
        assert_eq!(frames[0], r#"{"type":"stdout","data_b64":"YeKC"}"#);
        assert_eq!(frames[1], r#"{"type":"stdout","data_b64":"rA=="}"#);
        assert_eq!(frames[2], r#"{"type":"stderr","data_b64":"/+I="}"#);
        assert_eq!(frames.len(), 4);
    }
}
