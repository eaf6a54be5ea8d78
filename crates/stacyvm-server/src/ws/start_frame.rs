//! The first frame of a client: the command, and the dialect.

use axum::extract::ws::Utf8Bytes;
use bytes::Bytes;
use serde::Deserialize;
use stacyvm_orchestrator::TtySize;
use stacyvm_types::{ExecRequest, SocketOptions};

use crate::body::JsonBytes;

/// The size of a terminal whose client names none.
const DEFAULT_SIZE: TtySize = TtySize { cols: 80, rows: 24 };

/// How frames are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Typed frames both ways: `start`, `stdin`, `resize`, …, `stdout`, `exit`.
    Typed {
        /// Output as `data_b64`, byte by byte as it was written.
        base64: bool,
    },
    /// `{"stream","data"}` one way, then `exit` and `done`.
    Plain,
}

/// What a client wants to run, and in which form.
#[derive(Debug)]
pub(crate) struct StartFrame {
    pub(crate) request: ExecRequest,
    pub(crate) dialect: Dialect,
    pub(crate) tty: Option<TtySize>,
    /// Whether the client wants acknowledgements of its input.
    pub(crate) acknowledge: bool,
    /// Whether the command outlives the connection.
    pub(crate) detach: bool,
}

/// The parts of a first frame that are checked before the rest.
#[derive(Deserialize)]
struct Head {
    command: Option<String>,
    detach: Option<bool>,
}

impl StartFrame {
    /// Reads a first frame.
    ///
    /// # Errors
    /// A sentence that fits into a close frame and repeats nothing of the frame.
    pub(crate) fn parse(text: Utf8Bytes) -> Result<Self, &'static str> {
        let body = JsonBytes(Bytes::from(text));
        let unfit = |_| "the first frame is no JSON object of a start or an exec request";
        let head: Head = body.parse().map_err(unfit)?;
        let options: SocketOptions = body.parse().map_err(unfit)?;
        if head.command.is_none() {
            return Err("the first frame names no command");
        }
        let base64 = match options.encoding.as_deref() {
            None | Some("" | "utf-8") => false,
            Some("base64") => true,
            Some(_) => return Err("encoding is utf-8 or base64"),
        };
        let dialect = match options.kind.as_deref() {
            None => Dialect::Plain,
            Some("start") => Dialect::Typed { base64 },
            Some(_) => return Err("the first frame is of type start, or a plain exec request"),
        };
        let request: ExecRequest = body
            .parse()
            .map_err(|_| "a field of the first frame has a value that it cannot have")?;
        let typed = dialect != Dialect::Plain;
        let cells = |asked: Option<u16>, usual| asked.filter(|count| *count > 0).unwrap_or(usual);
        let size = TtySize {
            cols: cells(options.cols, DEFAULT_SIZE.cols),
            rows: cells(options.rows, DEFAULT_SIZE.rows),
        };
        Ok(Self {
            request,
            dialect,
            tty: (typed && options.tty == Some(true)).then_some(size),
            acknowledge: typed && options.stdin_ack == Some(true),
            detach: head.detach == Some(true),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StartFrame, &'static str> {
        StartFrame::parse(text.into())
    }

    #[test]
    fn the_first_frame_chooses_the_dialect() {
        let plain = parse(r#"{"command":"ls","args":["-l"],"tty":true}"#).unwrap();
        assert_eq!((plain.dialect, plain.tty), (Dialect::Plain, None));
        assert_eq!(plain.request.args.unwrap(), ["-l"]);
        let typed = parse(r#"{"type":"start","command":"sh"}"#).unwrap();
        assert_eq!(typed.dialect, Dialect::Typed { base64: false });
        assert_eq!(typed.tty, None);
        let start = r#"{"type":"start","command":"sh","tty":true,"cols":0,"rows":50,
                        "encoding":"base64","stdin_ack":true,"more":1}"#;
        let typed = parse(start).unwrap();
        assert_eq!(typed.dialect, Dialect::Typed { base64: true });
        assert_eq!(typed.tty, Some(TtySize { cols: 80, rows: 50 }));
        assert!(typed.acknowledge);
    }

    #[test]
    fn a_bad_first_frame_is_refused_in_words_that_fit_into_a_close_frame() {
        for text in [
            "",
            "hello",
            "[]",
            "{}",
            "null",
            r#"{"type":"start"}"#,
            r#"{"type":"stdin","command":"x"}"#,
            r#"{"type":7,"command":"x"}"#,
            r#"{"command":["x"]}"#,
            r#"{"command":"x","env":"A=b"}"#,
            r#"{"type":"start","command":"x","cols":70000}"#,
            r#"{"type":"start","command":"x","encoding":"utf-16"}"#,
        ] {
            let words = parse(text).unwrap_err();
            assert!(words.len() <= 123, "{words}");
        }
    }
}
