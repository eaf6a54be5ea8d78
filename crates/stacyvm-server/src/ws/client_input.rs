//! The frames of a client after the first.

use axum::extract::ws::Utf8Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use stacyvm_orchestrator::{Signal, TtySize};
use stacyvm_types::{ClientFrame, SignalName};

use crate::body::JsonBytes;
use crate::error::Failure;
use crate::signals;

/// A frame of a client, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientInput {
    Stdin(Bytes),
    CloseStdin,
    Resize(TtySize),
    Signal(Signal),
    /// A terminal without cells, as a hidden window has it.
    Ignored,
}

impl ClientInput {
    pub(crate) fn parse(text: Utf8Bytes) -> Result<Self, Failure> {
        let frame: ClientFrame = JsonBytes(Bytes::from(text)).parse()?;
        match frame.kind.as_str() {
            "stdin" => match (frame.data, frame.data_b64) {
                (Some(text), None) => Ok(Self::Stdin(text.into())),
                (None, Some(coded)) => STANDARD
                    .decode(coded)
                    .map(|bytes| Self::Stdin(bytes.into()))
                    .map_err(|_| Failure::bad_request("data_b64 is not base64")),
                _ => bad("stdin needs data or data_b64"),
            },
            "stdin_close" => Ok(Self::CloseStdin),
            "resize" => match (frame.cols, frame.rows) {
                (Some(0), Some(_)) | (Some(_), Some(0)) => Ok(Self::Ignored),
                (Some(cols), Some(rows)) => Ok(Self::Resize(TtySize { cols, rows })),
                _ => bad("resize needs cols and rows"),
            },
            "signal" => {
                let number = match frame.name {
                    Some(SignalName::Number(number)) => signals::number(&number.to_string()),
                    Some(SignalName::Name(name)) => signals::number(&name),
                    None => None,
                };
                match number {
                    Some(number) => Ok(Self::Signal(Signal(number))),
                    None => bad("signal needs the name of a signal, like SIGINT, or its number"),
                }
            }
            _ => bad("the frames of a client are stdin, stdin_close, resize and signal"),
        }
    }
}

fn bad(words: &'static str) -> Result<ClientInput, Failure> {
    Err(Failure::bad_request(words))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_the_contract_is_understood() {
        let stdin = |bytes: &'static [u8]| ClientInput::Stdin(Bytes::from_static(bytes));
        let size = TtySize { cols: 9, rows: 8 };
        for (text, expected) in [
            (r#"{"type":"stdin","data":"é\n"}"#, stdin("é\n".as_bytes())),
            (r#"{"type":"stdin","data_b64":"/wA="}"#, stdin(b"\xff\0")),
            (r#"{"type":"stdin_close"}"#, ClientInput::CloseStdin),
            (
                r#"{"type":"resize","cols":9,"rows":8}"#,
                ClientInput::Resize(size),
            ),
            (
                r#"{"type":"resize","cols":0,"rows":8}"#,
                ClientInput::Ignored,
            ),
            (
                r#"{"type":"signal","name":"SIGINT"}"#,
                ClientInput::Signal(Signal(2)),
            ),
            (
                r#"{"type":"signal","signal":"TERM"}"#,
                ClientInput::Signal(Signal(15)),
            ),
            (
                r#"{"type":"signal","name":9}"#,
                ClientInput::Signal(Signal(9)),
            ),
        ] {
            assert_eq!(ClientInput::parse(text.into()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_repeating_it() {
        for text in [
            "hunter2",
            r#"{"data":"hunter2"}"#,
            r#"{"type":"hunter2"}"#,
            r#"{"type":"stdin","data_b64":"hunter2!"}"#,
            r#"{"type":"stdin"}"#,
            r#"{"type":"resize","cols":9}"#,
            r#"{"type":"resize","cols":-9,"rows":8}"#,
            r#"{"type":"signal","name":"hunter2"}"#,
            r#"{"type":"signal"}"#,
        ] {
            let failure = ClientInput::parse(text.into()).unwrap_err();
            assert!(!failure.message().contains("hunter2"), "{failure:?}");
        }
    }
}
