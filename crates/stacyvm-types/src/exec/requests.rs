//! What the exec routes take beside a command: queries and bodies.

use serde::{Deserialize, Serialize};

/// The query of GET `/sandboxes/{id}/execs/{exec_id}/attach`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct AttachQuery {
    /// The first byte wanted, over both streams; 0 when absent.
    pub offset: Option<u64>,
    /// Whether to wait for what comes; true when absent.
    pub follow: Option<bool>,
    /// `utf-8`, or `base64` for every byte as it is, in `data_b64`.
    #[cfg_attr(feature = "openapi", param(value_type = Option<String>))]
    pub encoding: Option<OutputEncoding>,
}

/// What GET `/sandboxes/{id}/execs/{exec_id}/attach` takes more over a WebSocket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct AttachSocketQuery {
    /// Over a WebSocket: whether input is acknowledged.
    pub stdin_ack: Option<bool>,
}

/// How the output of a command is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub enum OutputEncoding {
    /// As text; bytes that are no UTF-8 become U+FFFD.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// Every byte as it is, in `data_b64`.
    #[serde(rename = "base64")]
    Base64,
}

/// The text names no encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the query parameter encoding must be utf-8 or base64")]
pub struct ParseOutputEncodingError;

impl TryFrom<String> for OutputEncoding {
    type Error = ParseOutputEncodingError;

    fn try_from(text: String) -> Result<Self, ParseOutputEncodingError> {
        match text.as_str() {
            "utf-8" => Ok(Self::Utf8),
            "base64" => Ok(Self::Base64),
            _ => Err(ParseOutputEncodingError),
        }
    }
}

/// The query of POST `/sandboxes/{id}/execs/{exec_id}/stdin` when the body is raw bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct StdinQuery {
    /// For raw bytes: whether the input ends after them.
    pub close: Option<bool>,
}

/// The query of `/sandboxes/{id}/execs/{exec_id}/wait`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct WaitQuery {
    /// How long to wait at most, like `30s`; to the end when absent.
    pub timeout: Option<String>,
}

/// The body of POST `/sandboxes/{id}/execs/{exec_id}/stdin`: input for a running command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StdinRequest {
    /// As text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// As base64 with padding, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_b64: Option<String>,
    /// Whether the input ends after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close: Option<bool>,
}

/// The body of POST `/sandboxes/{id}/execs/{exec_id}/signal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignalRequest {
    /// The signal's name or number: `SIGINT`, `INT`, `2`.
    pub signal: SignalName,
}

/// A signal in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum SignalName {
    /// By its Linux number.
    Number(i32),
    /// By its name.
    Name(String),
}

/// The body of POST `/sandboxes/{id}/execs/{exec_id}/resize`: a terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResizeRequest {
    /// Columns, at least 1.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub cols: u16,
    /// Rows, at least 1.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub rows: u16,
}
