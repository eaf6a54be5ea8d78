//! What a provider is asked for and what it reports.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use stacyvm_types::{DomainPattern, Isolation, SandboxId, Vcpus};

/// How a box is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// A loopback of its own and nothing else.
    #[default]
    None,
    /// A network of its own with a way out, and no way to the host, private networks or other
    /// boxes.
    Bridge(Egress),
}

/// What a box with a network may reach outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// Everything that the operator's rules leave open.
    #[default]
    Open,
    /// Only servers of these names, as far as the operator's rules allow them; an empty list closes
    /// everything.
    Domains(Vec<DomainPattern>),
}

/// Something that happened to a box on the provider's side, for the events of its sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A connection or a name that its egress rules do not allow was refused.
    Refused {
        /// The box.
        id: SandboxId,
        /// The name asked for, or the address where no name was given.
        host: String,
        /// The port; none for a question about a name.
        port: Option<u16>,
        /// Why, in a few words.
        reason: String,
    },
    /// More was refused than is told one by one.
    RefusedMore {
        /// The box.
        id: SandboxId,
        /// How many were left out since the last notice.
        count: u64,
    },
    /// It asked for more of something than its limit gives, and was refused or lost a process.
    LimitReached {
        /// The box.
        id: SandboxId,
        /// The limit: `memory`, `pids` or `disk`.
        limit: &'static str,
    },
    /// Its processes were stopped from outside StacyVM: it lives, but nothing in it moves.
    Paused {
        /// The box.
        id: SandboxId,
    },
    /// They move again.
    Resumed {
        /// The box.
        id: SandboxId,
    },
}

/// Everything a backend needs to make one box.
#[derive(Clone)]
pub struct BoxSpec {
    /// Its name for ever.
    pub id: SandboxId,
    /// What it is made from, in the backend's terms.
    pub image: String,
    /// What it must be separated by: one of the provider's [`isolations`](crate::ProviderInfo::isolations).
    pub isolation: Isolation,
    /// Memory limit, MiB, at least 1; swap counts in.
    pub memory_mb: u64,
    /// CPU limit, cores, more than none.
    pub vcpus: Vcpus,
    /// Processes and threads at most.
    pub pids_limit: u32,
    /// Open files of one process at most.
    pub open_files: u64,
    /// What it may write to its disk, MiB; none means no limit of its own. Asked only of a backend
    /// with [`Capability::DiskLimit`].
    pub disk_mb: Option<u64>,
    /// Only `/workspace` and `/tmp` stay writable.
    pub read_only_rootfs: bool,
    /// How it is connected.
    pub network: NetworkMode,
    /// Default user of execs; none means the image's, else uid 1000, `user`.
    pub user: Option<String>,
    /// Default directory of execs; none means the image's, else `/workspace`.
    pub workdir: Option<String>,
    /// Visible to every exec, over what the image sets.
    pub env: BTreeMap<String, String>,
}

impl fmt::Debug for BoxSpec {
    /// Leaves out the values of variables: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxSpec")
            .field("id", &self.id)
            .field("image", &self.image)
            .field("isolation", &self.isolation)
            .field("memory_mb", &self.memory_mb)
            .field("vcpus", &self.vcpus)
            .field("pids_limit", &self.pids_limit)
            .field("open_files", &self.open_files)
            .field("disk_mb", &self.disk_mb)
            .field("read_only_rootfs", &self.read_only_rootfs)
            .field("network", &self.network)
            .field("user", &self.user)
            .field("workdir", &self.workdir)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// What a box is doing, as its backend sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoxState {
    /// Its agent's process lives.
    Running,
    /// Its processes were stopped from outside StacyVM and can go on.
    Paused,
    /// Its workload has ended; what is left wants to be destroyed.
    Dead,
    /// It was never finished; wants to be destroyed.
    Partial,
}

/// One box that a backend has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxInfo {
    /// The sandbox it was made for.
    pub id: SandboxId,
    /// What it is doing.
    pub state: BoxState,
}

/// One thing that a provider can or cannot do. The words are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Run commands.
    Exec,
    /// Read and write files.
    Files,
    /// Terminals.
    Pty,
    /// Commands that outlive their connection.
    DetachedExec,
    /// Reach a port inside from outside.
    Forward,
    /// Memory, cpu and process limits that really hold.
    ResourceLimits,
    /// A limit of what a box writes to its disk.
    DiskLimit,
    /// A root file system that is read-only but for `/workspace` and `/tmp`.
    ReadOnlyRootfs,
    /// No network at all.
    NetworkNone,
    /// A network of its own with a way out.
    NetworkBridge,
    /// A way out to servers of given names only.
    EgressDomains,
    /// Pull, load, save and remove images.
    Images,
    /// Measure use.
    Stats,
}

impl Capability {
    /// The word used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Files => "files",
            Self::Pty => "pty",
            Self::DetachedExec => "detached-exec",
            Self::Forward => "forward",
            Self::ResourceLimits => "resource-limits",
            Self::DiskLimit => "disk-limit",
            Self::ReadOnlyRootfs => "read-only-rootfs",
            Self::NetworkNone => "network-none",
            Self::NetworkBridge => "network-bridge",
            Self::EgressDomains => "egress-domains",
            Self::Images => "images",
            Self::Stats => "stats",
        }
    }
}

/// What a health check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether a spawn would work.
    pub healthy: bool,
    /// Why not, with the remedy.
    pub error: Option<String>,
    /// How long the check took.
    pub latency: Duration,
}
