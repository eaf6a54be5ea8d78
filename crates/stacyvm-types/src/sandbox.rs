//! The sandbox as a client sees it, and the request that makes one.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{NetworkRequest, OwnerId, PreviewAccess, SandboxId, Timestamp, Vcpus};

/// Where a sandbox is in its life. Transitions belong to the orchestrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// Its intent is written; the backend works on it.
    Creating,
    /// Its agent answers.
    Running,
    /// Frozen on request.
    Paused,
    /// Its workload ended by itself.
    Stopped,
    /// It could not be made, or was lost.
    Error,
    /// Gone; kept for its id only.
    Destroyed,
}

impl SandboxState {
    /// The word used in the API and the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::Destroyed => "destroyed",
        }
    }

    /// Every state, in the order of a life.
    pub const ALL: [Self; 6] = [
        Self::Creating,
        Self::Running,
        Self::Paused,
        Self::Stopped,
        Self::Error,
        Self::Destroyed,
    ];
}

impl FromStr for SandboxState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(())
    }
}

impl fmt::Display for SandboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What separates a sandbox from the host and its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A plain process of the host: nothing.
    None,
    /// Host processes under a path translation: no kernel boundary worth the name.
    Process,
    /// Namespaces, cgroups and a system call filter over the host's kernel.
    Container,
    /// A kernel in user space answers the system calls.
    UserspaceKernel,
    /// A kernel of its own behind hardware virtualisation.
    Vm,
    /// Another service runs it; what it uses is its word.
    Remote,
}

/// Why a text names no isolation level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown isolation {0:?}: the levels are none, process, container, userspace-kernel, vm and remote"
)]
pub struct ParseIsolationError(String);

impl Isolation {
    /// The word used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Container => "container",
            Self::UserspaceKernel => "userspace-kernel",
            Self::Vm => "vm",
            Self::Remote => "remote",
        }
    }

    /// Whether this level is at least `floor`. `remote` is outside the order: it satisfies only
    /// itself and `none`, because we cannot see what it really is.
    pub fn satisfies(self, floor: Self) -> bool {
        let rank = |level| match level {
            Self::None => Some(0),
            Self::Process => Some(1),
            Self::Container => Some(2),
            Self::UserspaceKernel => Some(3),
            Self::Vm => Some(4),
            Self::Remote => None,
        };
        self == floor
            || floor == Self::None
            || matches!((rank(self), rank(floor)), (Some(have), Some(want)) if have >= want)
    }
}

impl FromStr for Isolation {
    type Err = ParseIsolationError;

    fn from_str(text: &str) -> Result<Self, ParseIsolationError> {
        [
            Self::None,
            Self::Process,
            Self::Container,
            Self::UserspaceKernel,
            Self::Vm,
            Self::Remote,
        ]
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or_else(|| ParseIsolationError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A sandbox as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sandbox {
    /// `sb-` and 8 hexadecimal digits, unique for ever.
    pub id: SandboxId,
    /// Where it is in its life.
    pub state: SandboxState,
    /// Which backend made it.
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
    /// Who it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_id: Option<OwnerId>,
    /// The pool VM it lives in, in pool mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
    /// The template it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// What it really got.
    pub isolation: Isolation,
    /// When the request was accepted.
    pub created_at: Timestamp,
    /// When it will be destroyed.
    pub expires_at: Timestamp,
    /// The client's own labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Clients build `http://{port}-{id}.{preview_domain}` from it.
    pub preview_domain: String,
    /// Who may open its ports in a browser, when the spawn said so; absent means what the server's
    /// configuration says.
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
    /// Who it belongs to; the `X-User-ID` header wins.
    #[serde(default)]
    pub owner_id: Option<String>,
    /// The client's own labels.
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
    /// A floor: less is refused with 422.
    #[serde(default)]
    pub isolation: Option<String>,
    /// Named volumes; no provider has them yet, so a non-empty list is refused with 422.
    #[serde(default)]
    pub volumes: Option<Vec<String>>,
    /// Only `/workspace` and `/tmp` stay writable.
    #[serde(default)]
    pub read_only_rootfs: Option<bool>,
    /// Who may open its ports in a browser: `public` or `private`; absent means what the server's
    /// configuration says.
    #[serde(default)]
    pub preview: Option<String>,
}

/// What POST `/sandboxes/admission` answers; exactly these keys, because a client splats it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Admission {
    /// Whether a spawn would be accepted now.
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
    fn isolation_is_a_floor_and_remote_stands_apart() {
        assert!(Isolation::Vm.satisfies(Isolation::Container));
        assert!(!Isolation::Container.satisfies(Isolation::UserspaceKernel));
        assert!(!Isolation::Remote.satisfies(Isolation::Process));
        assert!(!Isolation::Vm.satisfies(Isolation::Remote));
        assert!(Isolation::Remote.satisfies(Isolation::None));
    }

    #[test]
    fn volumes_and_unknown_fields_do_not_break_a_spawn() {
        let request: SpawnRequest =
            serde_json::from_str(r#"{"image":"host","memory_mb":null,"surprise":[1]}"#).unwrap();
        assert_eq!(request.image.as_deref(), Some("host"));
        assert_eq!(request.memory_mb, None);
    }
}
