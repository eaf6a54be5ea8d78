//! The operator's settings, resolved, and the caller of an operation.

use std::collections::BTreeMap;
use std::time::Duration;

use stacyvm_types::{OwnerId, SandboxState, Vcpus};

/// The caller of an operation. In pool mode an owner sees only their own
/// sandboxes; without an owner the caller is the operator, who sees all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The owner named in the `X-User-ID` header, if the request has one.
    pub owner: Option<OwnerId>,
}

/// The orchestrator's configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where a spawn lands that names no provider; resolved, never `auto`.
    pub default_provider: String,
    /// The image of a spawn that names none; none means the provider's own default.
    pub default_image: Option<String>,
    /// One image name for another, which may be an alias again.
    pub image_aliases: BTreeMap<String, String>,
    /// Time to live of a spawn that names none.
    pub default_ttl: Duration,
    /// The longest time to live.
    pub max_ttl: Option<Duration>,
    /// Memory of a spawn that names none, MiB.
    pub memory_mb: u64,
    /// Cores of a spawn that names none.
    pub vcpus: Vcpus,
    /// Processes and threads of every sandbox.
    pub pids_limit: u32,
    /// Open files of each process of every sandbox.
    pub open_files: u64,
    /// Disk of a spawn that names none, MiB; none means no limit of its own.
    pub disk_mb: Option<u64>,
    /// The largest memory, MiB.
    pub max_memory_mb: Option<u64>,
    /// The most cores.
    pub max_vcpus: Option<Vcpus>,
    /// The most disk, MiB.
    pub max_disk_mb: Option<u64>,
    /// Deadline of an exec that names none; none or zero means no deadline.
    pub default_exec_timeout: Option<Duration>,
    /// The longest deadline of an exec; none or zero means no limit.
    pub max_exec_timeout: Option<Duration>,
    /// How much of each output stream a captured exec keeps.
    pub max_output_bytes: usize,
    /// Living sandboxes at most; 0 means no limit.
    pub max_sandboxes: u64,
    /// Living sandboxes of one owner at most; 0 means no limit.
    pub max_owner_sandboxes: u64,
    /// Spawns that may wait for room; 0 means that none does.
    pub spawn_queue: usize,
    /// How long one waits.
    pub spawn_queue_timeout: Duration,
    /// Boxes that are made at once; 0 means no limit.
    pub concurrent_creates: usize,
    /// Whether owners are an access check.
    pub pool_mode: bool,
    /// What clients build preview addresses from.
    pub preview_domain: String,
    /// How many of the newest events are kept for those who come back.
    pub event_history: usize,
    /// How often store and providers are compared.
    pub reconcile_interval: Duration,
    /// How often providers are checked.
    pub health_interval: Duration,
}

impl Settings {
    /// What an image's name stands for in the end. Aliases that lead in a circle are followed
    /// once round.
    pub fn resolve_image<'a>(&'a self, image: &'a str) -> &'a str {
        let mut name = image;
        for _ in 0..self.image_aliases.len() {
            match self.image_aliases.get(name) {
                Some(next) => name = next,
                None => break,
            }
        }
        name
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_provider: "native".to_owned(),
            default_image: None,
            image_aliases: BTreeMap::new(),
            default_ttl: Duration::from_secs(30 * 60),
            max_ttl: None,
            memory_mb: 1024,
            vcpus: Vcpus::ONE,
            pids_limit: 256,
            open_files: 16_384,
            disk_mb: None,
            max_memory_mb: None,
            max_vcpus: None,
            max_disk_mb: None,
            default_exec_timeout: None,
            max_exec_timeout: None,
            max_output_bytes: 16 * 1024 * 1024,
            max_sandboxes: 0,
            max_owner_sandboxes: 0,
            spawn_queue: 0,
            spawn_queue_timeout: Duration::from_secs(30),
            concurrent_creates: 64,
            pool_mode: false,
            preview_domain: "localhost:7423".to_owned(),
            event_history: 10_000,
            reconcile_interval: Duration::from_secs(60),
            health_interval: Duration::from_secs(30),
        }
    }
}

/// What a listing is narrowed to; every given part must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Only this state.
    pub state: Option<SandboxState>,
    /// Only this owner's.
    pub owner: Option<String>,
    /// Only those that carry all of these labels.
    pub metadata: BTreeMap<String, String>,
}
