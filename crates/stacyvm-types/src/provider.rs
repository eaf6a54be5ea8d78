//! Providers, as the API lists them.

use serde::{Deserialize, Serialize};

use crate::{Isolation, Timestamp};

/// One configured provider as GET `/providers` lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProviderInfo {
    /// `native`, `mock`, …
    pub name: String,
    /// Whether the last health check succeeded.
    pub healthy: bool,
    /// Whether a spawn that names no provider uses this one; true for exactly one.
    pub default: bool,
    /// The isolation that its sandboxes really get.
    pub isolation: Isolation,
    /// How long the last check took, in milliseconds.
    pub latency_ms: f64,
    /// When the last check ended.
    pub last_checked: Timestamp,
    /// Why it is not healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its capabilities, sorted.
    pub capabilities: Vec<String>,
    /// The number of sandboxes that the backend itself reports.
    pub runtime_count: u64,
}
