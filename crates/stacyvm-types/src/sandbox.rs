//! The sandbox as a client sees it, and the request that makes one.

pub(crate) mod isolation;
pub(crate) mod requests;
pub(crate) mod state;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::isolation::Isolation;
use self::state::SandboxState;
use crate::{NetworkRequest, OwnerId, PreviewAccess, SandboxId, Timestamp, Vcpus};

/// A sandbox as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sandbox {
    /// `sb-` and 8 hexadecimal digits, unique for ever.
    pub id: SandboxId,
    /// Where it is in its life.
    pub state: SandboxState,
    /// The provider that made it.
    pub provider: String,
    /// What it was made from, as the request named it.
    pub image: String,
    /// Memory limit, MiB.
    pub memory_mb: u64,
    /// CPU limit, cores: 2, or 0.5.
    pub vcpus: Vcpus,
    /// What it may write to its disk, MiB; absent means no limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u64>,
    /// The owner it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_id: Option<OwnerId>,
    /// The pool VM it lives in, in pool mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
    /// The template it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The isolation that it really has.
    pub isolation: Isolation,
    /// When the request was accepted.
    pub created_at: Timestamp,
    /// When it will be destroyed.
    pub expires_at: Timestamp,
    /// Labels that the client set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Clients build `http://{port}-{id}.{preview_domain}` from it.
    pub preview_domain: String,
    /// Who may open its ports in a browser, when the spawn named it; absent means the server's
    /// configuration decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<PreviewAccess>,
}

/// The body of POST `/sandboxes`, as it came in; validated by the orchestrator. `null` means absent.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SpawnRequest {
    /// An image of the provider; absent means its default.
    #[serde(default)]
    pub image: Option<String>,
    /// A configured provider; absent means the default one.
    #[serde(default)]
    pub provider: Option<String>,
    /// MiB.
    #[serde(default)]
    pub memory_mb: Option<i64>,
    /// Cores: 2, or 0.5; at least 0.05, digits behind the second are rounded away.
    #[serde(default, serialize_with = "crate::vcpus::as_asked")]
    pub vcpus: Option<f64>,
    /// What it may write to its disk, MiB.
    #[serde(default)]
    pub disk_mb: Option<i64>,
    /// Go duration.
    #[serde(default)]
    pub ttl: Option<String>,
    /// A saved spec.
    #[serde(default)]
    pub template: Option<String>,
    /// The owner it belongs to; the `X-User-ID` header wins.
    #[serde(default)]
    pub owner_id: Option<String>,
    /// Labels of the client's choice.
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Visible to every exec.
    #[serde(default)]
    pub env: Option<BTreeMap<String, String>>,
    /// Default directory of execs; default `/workspace`.
    #[serde(default)]
    pub workdir: Option<String>,
    /// Default user of execs: a name or number of the sandbox; default `user` (1000).
    #[serde(default)]
    pub user: Option<String>,
    /// `none`, `bridge`, or rules; absent means the provider's default.
    #[serde(default)]
    pub network: Option<NetworkRequest>,
    /// The least isolation that is accepted: a spawn that cannot have it is refused with 422.
    #[serde(default)]
    pub isolation: Option<String>,
    /// Named volumes; no provider has them yet, so a non-empty list is refused with 422.
    #[serde(default)]
    pub volumes: Option<Vec<String>>,
    /// Only `/workspace` and `/tmp` stay writable.
    #[serde(default)]
    pub read_only_rootfs: Option<bool>,
    /// Who may open its ports in a browser: `public` or `private`; absent means the server's
    /// configuration decides.
    #[serde(default)]
    pub preview: Option<String>,
}

/// The answer of POST `/sandboxes/admission`. It has exactly these keys, because a client passes
/// them on as arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Admission {
    /// Whether a spawn would be accepted at present.
    pub allowed: bool,
    /// Whether it could wait in a queue instead.
    pub queueable: bool,
    /// Why not; empty when allowed.
    pub reason: String,
    /// Sandboxes alive.
    pub active_sandboxes: u64,
    /// The limit; 0 means none.
    pub max_sandboxes: u64,
    /// Sandboxes alive of this owner.
    pub active_owner_sandboxes: u64,
    /// The limit for this owner; 0 means none.
    pub max_owner_sandboxes: u64,
    /// The longest ttl, Go style; empty means no limit.
    pub max_ttl: String,
}

/// What a sandbox uses, as GET `/sandboxes/{id}/stats` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SandboxStats {
    /// Whether the provider can measure at all; when false every figure is zero.
    pub supported: bool,
    /// Percent of one core since the last look, or since the start.
    pub cpu_pct: f64,
    /// Memory in use, bytes.
    pub mem_bytes: u64,
    /// Memory limit, bytes; 0 means none.
    pub mem_limit_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes on disk that are its own: what it wrote, and what its file system needs for itself.
    pub disk_bytes: u64,
    /// Bytes received.
    pub net_rx_bytes: u64,
    /// Bytes sent.
    pub net_tx_bytes: u64,
    /// Cores at most; 0 means no limit.
    #[serde(default)]
    pub cpu_limit: f64,
    /// Processes and threads at most; 0 means no limit.
    #[serde(default)]
    pub pids_limit: u64,
    /// Bytes on disk at most; 0 means no limit of its own.
    #[serde(default)]
    pub disk_limit_bytes: u64,
    /// Processes that were ended for want of memory since it was made.
    #[serde(default)]
    pub oom_kills: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_and_unknown_fields_do_not_break_a_spawn() {
        let request: SpawnRequest =
            serde_json::from_str(r#"{"image":"host","memory_mb":null,"surprise":[1]}"#).unwrap();
        assert_eq!(request.image.as_deref(), Some("host"));
        assert_eq!(request.memory_mb, None);
    }
}
