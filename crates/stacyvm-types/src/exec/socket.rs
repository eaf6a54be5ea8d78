//! What a client sends over the WebSocket of a command.
//!
//! The first frame is an exec request together with [`SocketOptions`]; every later one is a
//! [`ClientFrame`]. The server refuses frames whose fields do not fit their type.

use serde::{Deserialize, Serialize};

use crate::exec::requests::SignalName;

/// The parts of the first frame that are not the command's. Each may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOptions {
    /// `start` for a typed conversation; absent for the plain dialect.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Whether the command gets a terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<bool>,
    /// Columns of the terminal; 80 when absent or 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cols: Option<u16>,
    /// Rows of the terminal; 24 when absent or 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    /// How output is written: `utf-8`, the default, or `base64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Whether the server says how much of the input was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin_ack: Option<bool>,
}

/// A frame of a client after the first. Which fields it needs depends on its type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFrame {
    /// `stdin`, `stdin_close`, `resize` or `signal`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Input as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Input as base64 with padding, instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_b64: Option<String>,
    /// Columns of the terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cols: Option<u16>,
    /// Rows of the terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    /// The signal.
    #[serde(
        alias = "signal",
        alias = "number",
        skip_serializing_if = "Option::is_none"
    )]
    pub name: Option<SignalName>,
}

impl ClientFrame {
    /// Input, as base64 with padding.
    pub fn stdin(data_b64: String) -> Self {
        Self {
            data_b64: Some(data_b64),
            ..Self::of("stdin")
        }
    }

    /// The end of input.
    pub fn stdin_close() -> Self {
        Self::of("stdin_close")
    }

    /// A new size of the terminal.
    pub fn resize(cols: u16, rows: u16) -> Self {
        Self {
            cols: Some(cols),
            rows: Some(rows),
            ..Self::of("resize")
        }
    }

    /// A signal for the command's process group.
    pub fn signal(name: SignalName) -> Self {
        Self {
            name: Some(name),
            ..Self::of("signal")
        }
    }

    fn of(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            ..Self::default()
        }
    }
}
