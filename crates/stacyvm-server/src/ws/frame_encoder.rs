//! The frames of the server, in either dialect.

use axum::extract::ws::Message;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use stacyvm_orchestrator::{ExecEvent, ExecExit};
use stacyvm_types::{ErrorCode, ExecId, ExitReason, GoDuration, OutputEncoding, OutputStream};

use super::start_frame::Dialect;
use crate::attach::{Follower, OutputItem};
use crate::error::Failure;

/// Turns the events of a command into frames.
#[derive(Debug)]
pub(crate) struct FrameEncoder {
    dialect: Dialect,
    follower: Follower,
    /// Whether frames carry the offset to go on from.
    offsets: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame<'a> {
    Started {
        pid: u32,
        exec_id: ExecId,
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

/// A frame of output: one of the names, one of the contents.
#[derive(Serialize)]
struct Output<'a> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

fn message(frame: &impl Serialize) -> Message {
    let text = serde_json::to_string(frame).expect("our own frames are always JSON");
    Message::Text(text.into())
}

impl FrameEncoder {
    /// For a command that was started for this session.
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            follower: Follower::new(0, encoding(dialect)),
            offsets: false,
        }
    }

    /// For a detached command, from `offset` on.
    pub(crate) fn following(dialect: Dialect, offset: u64) -> Self {
        Self {
            dialect,
            follower: Follower::new(offset, encoding(dialect)),
            offsets: true,
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The frame that reports the start; the plain dialect has none.
    pub(crate) fn started(&self, pid: u32, exec_id: ExecId) -> Option<Message> {
        match self.dialect {
            Dialect::Typed { .. } => Some(message(&Frame::Started { pid, exec_id })),
            Dialect::Plain => None,
        }
    }

    /// The frame that reports how many bytes of input were taken since the start.
    pub(crate) fn acknowledged(&self, bytes: u64) -> Message {
        message(&Frame::StdinAck { bytes })
    }

    /// Adds the frames of an event; true when it ends the session.
    pub(crate) fn event(&mut self, event: ExecEvent, frames: &mut Vec<Message>) -> bool {
        let mut over = false;
        for piece in self.follower.on_event(event) {
            match piece {
                OutputItem::Text {
                    stream,
                    data,
                    offset,
                } => frames.push(self.output(name(stream), Some(&data), None, offset)),
                OutputItem::Exact {
                    stream,
                    data,
                    offset,
                } => frames.push(self.output(name(stream), None, Some(&data), offset)),
                OutputItem::Gap { lost, offset } => frames.push(message(&Output {
                    lost: Some(lost),
                    ..self.named("gap", offset)
                })),
                OutputItem::Exit(exit) => {
                    frames.push(ended(&exit));
                    over = true;
                }
                OutputItem::End => over = true,
            }
        }
        if over && self.dialect == Dialect::Plain {
            frames.push(message(&Frame::Done));
        }
        over
    }

    fn named<'a>(&self, name: &'a str, offset: u64) -> Output<'a> {
        let typed = self.dialect != Dialect::Plain;
        Output {
            kind: typed.then_some(name),
            stream: (!typed).then_some(name),
            data: None,
            data_b64: None,
            lost: None,
            offset: self.offsets.then_some(offset),
        }
    }

    fn output(&self, name: &str, text: Option<&str>, exact: Option<&[u8]>, offset: u64) -> Message {
        message(&Output {
            data: text,
            data_b64: exact.map(|bytes| STANDARD.encode(bytes)),
            ..self.named(name, offset)
        })
    }

    /// The frame that reports a failure; its cause goes to the log.
    pub(crate) fn failed(failure: Failure) -> Message {
        let (code, words) = failure.into_parts();
        message(&Frame::Error {
            code,
            message: &words,
        })
    }
}

fn name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}

fn encoding(dialect: Dialect) -> OutputEncoding {
    match dialect {
        Dialect::Typed { base64: true } => OutputEncoding::Base64,
        Dialect::Typed { base64: false } | Dialect::Plain => OutputEncoding::Utf8,
    }
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

    fn said(encoder: &mut FrameEncoder, events: Vec<ExecEvent>) -> Vec<String> {
        let mut frames = Vec::new();
        for event in events {
            encoder.event(event, &mut frames);
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
        let mut encoder = FrameEncoder::new(Dialect::Typed { base64: false });
        let started = encoder.started(7, ExecId(3)).unwrap();
        assert_eq!(
            started.to_text().unwrap(),
            r#"{"type":"started","pid":7,"exec_id":"ex-3"}"#
        );
        assert_eq!(
            said(&mut encoder, events()),
            [
                r#"{"type":"stdout","data":"a"}"#,
                r#"{"type":"stdout","data":"€"}"#,
                "{\"type\":\"stderr\",\"data\":\"\u{FFFD}\"}",
                "{\"type\":\"stderr\",\"data\":\"\u{FFFD}\"}",
                r#"{"type":"exit","exit_code":137,"duration":"12.3ms","reason":"timeout"}"#,
            ]
        );
        let failed = FrameEncoder::failed(Failure::bad_request("no"));
        assert_eq!(
            failed.to_text().unwrap(),
            r#"{"type":"error","code":"BAD_REQUEST","message":"no"}"#
        );
    }

    #[test]
    fn plain_frames_are_exactly_these() {
        let mut encoder = FrameEncoder::new(Dialect::Plain);
        assert_eq!(encoder.started(7, ExecId(3)), None);
        assert_eq!(
            said(&mut encoder, events()),
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
    fn frames_of_a_kept_command_carry_offsets_and_tell_gaps() {
        let output = |bytes: &'static [u8]| {
            ExecEvent::Output(OutputStream::Stdout, Bytes::from_static(bytes))
        };
        let events = vec![
            ExecEvent::Resumed(5),
            output(b"a\xe2\x82"),
            output(b"\xac"),
            ExecEvent::Resumed(100),
            ExecEvent::End,
        ];
        let mut encoder = FrameEncoder::following(Dialect::Typed { base64: false }, 5);
        assert_eq!(
            said(&mut encoder, events),
            [
                r#"{"type":"stdout","data":"a","offset":6}"#,
                r#"{"type":"stdout","data":"€","offset":9}"#,
                r#"{"type":"gap","lost":91,"offset":100}"#,
            ]
        );
    }

    #[test]
    fn base64_frames_hold_every_byte() {
        let mut encoder = FrameEncoder::new(Dialect::Typed { base64: true });
        let frames = said(&mut encoder, events());
        assert_eq!(frames[0], r#"{"type":"stdout","data_b64":"YeKC"}"#);
        assert_eq!(frames[1], r#"{"type":"stdout","data_b64":"rA=="}"#);
        assert_eq!(frames[2], r#"{"type":"stderr","data_b64":"/+I="}"#);
        assert_eq!(frames.len(), 4);
    }
}
