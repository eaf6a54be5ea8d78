//! Answers about the server itself, and the answer of routes that have nothing to show.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::GoDuration;

/// The answer of GET `/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The server's version.
    pub version: String,
    /// Time since the server's start.
    pub uptime: GoDuration,
}

/// The answer of GET `/live` and `/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProbeStatus {
    /// `alive`, `ready` or `not_ready`.
    pub status: String,
    /// Time since the server's start.
    pub uptime: GoDuration,
    /// Why the server is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer of routes that have nothing to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusResponse {
    /// What was done.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub status: Cow<'static, str>,
}
