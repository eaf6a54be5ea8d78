//! What the provider routes say.

use serde::{Deserialize, Serialize};

use crate::{Isolation, Timestamp};

/// One configured provider as GET `/providers` lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProviderInfo {
    /// `native`, `mock`, …
    pub name: String,
    /// What the last check found.
    pub healthy: bool,
    /// Whether a spawn that names no provider lands here; exactly one has it.
    pub default: bool,
    /// What a sandbox here really gets.
    pub isolation: Isolation,
    /// How long the last check took, in milliseconds.
    pub latency_ms: f64,
    /// When the last check ended.
    pub last_checked: Timestamp,
    /// Why it is not healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it can do, sorted.
    pub capabilities: Vec<String>,
    /// How many sandboxes the backend itself reports.
    pub runtime_count: u64,
}
