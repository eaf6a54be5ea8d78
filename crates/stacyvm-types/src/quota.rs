//! Quotas: the limits of one owner, as the API shows them and the store keeps them.

use serde::{Deserialize, Serialize};

use crate::{GoDuration, OwnerId, Timestamp, Vcpus};

/// The limits of one owner. A part that is absent is limited by the configuration alone; where
/// both say something, the smaller wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Quota {
    /// The owner whose sandboxes are limited.
    pub owner_id: OwnerId,
    /// Sandboxes alive at once, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sandboxes: Option<u64>,
    /// The longest life of a sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<GoDuration>,
    /// The longest time of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_exec_timeout: Option<GoDuration>,
    /// The largest memory of a sandbox, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_mb: Option<u64>,
    /// The most cores of a sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<Vcpus>,
    /// The most that a sandbox may write to its disk, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_disk_mb: Option<u64>,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// The body of POST `/quotas` and PUT `/quotas/{owner}`, as it came in; validated by the
/// orchestrator. What is absent or `null` stays as it is; 0 and `0s` take a limit away.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QuotaRequest {
    /// The owner; in PUT the path names it.
    #[serde(default)]
    pub owner_id: Option<String>,
    /// Sandboxes alive at once.
    #[serde(default)]
    pub max_sandboxes: Option<i64>,
    /// Go duration.
    #[serde(default)]
    pub max_ttl: Option<String>,
    /// Go duration.
    #[serde(default)]
    pub max_exec_timeout: Option<String>,
    /// MiB.
    #[serde(default)]
    pub max_memory_mb: Option<i64>,
    /// Cores: 2, or 0.5.
    #[serde(default, serialize_with = "crate::vcpus::as_asked")]
    pub max_vcpus: Option<f64>,
    /// MiB.
    #[serde(default)]
    pub max_disk_mb: Option<i64>,
}

/// The answer of GET `/quotas/summary`. It has exactly these keys, because a client passes them on
/// as arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QuotaSummary {
    /// Owners with a quota.
    pub total: u64,
    /// Owners with a limit of sandboxes alive at once.
    pub with_max_sandboxes: u64,
    /// Owners with a limit of their sandboxes' life.
    pub with_max_ttl: u64,
    /// Owners with a limit of their commands' time.
    pub with_max_exec_timeout: u64,
}
