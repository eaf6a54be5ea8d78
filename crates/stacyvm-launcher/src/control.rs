//! The messages between the native provider and the launcher.
//!
//! The wire is a `SOCK_SEQPACKET` socket pair: one JSON object a packet, file descriptors beside
//! it as `SCM_RIGHTS`. Requests are answered in any order, matched by `seq`. The launcher exits
//! when its socket closes; sandboxes live on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest packet either side sends, in bytes.
pub const MAX_PACKET: usize = 256 * 1024;

/// A request of the provider.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Make one sandbox. Carries two descriptors: the agent's listening unix socket, then the
    /// write end of the status pipe; then, when it has a prepared network, its namespace; and with
    /// `disk` the root of a file system that is mounted nowhere yet.
    Launch(Box<LaunchRequest>),
}

/// One sandbox to launch.
#[derive(Debug, Serialize, Deserialize)]
pub struct LaunchRequest {
    /// Matches the reply.
    pub seq: u64,
    /// Host name inside, and name of its cgroups.
    pub id: String,
    /// Whether the sandbox's writable layers are on a file system of its own, which comes beside the
    /// request and has what is otherwise in `layers/`.
    #[serde(default)]
    pub disk: bool,
    /// The sandbox's own directory on the host, made by the provider, mode 0700. The launcher
    /// makes `layers/` inside it (`layers/0/upper` is what is written to the root, `workspace` and
    /// `tmp` in it), and writes `pid.json` before it lets the sandbox run.
    pub box_dir: PathBuf,
    /// File systems from the root downwards.
    pub overlays: Vec<OverlaySpec>,
    /// Only `/workspace` and `/tmp` stay writable.
    pub read_only_rootfs: bool,
    /// First host uid and gid of the sandbox's own range; ignored without root.
    pub id_base: u32,
    /// How many ids the range has; ignored without root.
    pub id_count: u32,
    /// User that execs run as and that owns the files made by the file API, as a number inside.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// Limits of what the sandbox may use.
    pub limits: Limits,
    /// Parent cgroup of every sandbox of this server, relative to each hierarchy's root (or to the
    /// delegated cgroup): `stacyvm/<instance>`.
    pub cgroup_parent: String,
    /// Files about the network whose namespace comes beside the request; none for a network with a
    /// loopback and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkFiles>,
}

/// Files that tell programs inside about their network. They take the place of the image's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFiles {
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Content of `/etc/hosts`.
    pub hosts: String,
}

/// One overlay mount of a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OverlaySpec {
    /// Where it is mounted inside: `/`, `/usr`, …
    pub target: PathBuf,
    /// Read-only directories of the image, uppermost first. A file's owner N is user N inside.
    pub lowers: Vec<PathBuf>,
    /// A directory of the host's own below them all. To its files everybody inside is a stranger, for
    /// whom the rights of others count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_host: Option<PathBuf>,
}

/// Resource limits of one sandbox.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Memory and swap together, bytes.
    pub memory_bytes: u64,
    /// Cores, also parts of one.
    pub vcpus: f64,
    /// Processes and threads.
    pub pids: u32,
    /// Open files a process.
    pub open_files: u64,
    /// How fast it may read and write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<IoLimits>,
}

/// How fast a sandbox may use one device; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoLimits {
    /// Major and minor number of the whole device.
    pub device: (u32, u32),
    /// Bytes a second.
    pub read_bps: u64,
    /// Bytes a second.
    pub write_bps: u64,
    /// Operations a second.
    pub read_iops: u64,
    /// Operations a second.
    pub write_iops: u64,
}

/// What the launcher answers to a launch, with the sandbox's pidfd beside it on success. Success
/// means: the process exists, `pid.json` is written, and it has been let go on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The request's number.
    pub seq: u64,
    /// The launched process, or why there is none.
    pub result: Result<Launched, LaunchFailure>,
}

/// A sandbox's first process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launched {
    /// Its process id on the host.
    pub pid: i32,
    /// Its start time in clock ticks since boot (field 22 of `/proc/PID/stat`, see proc(5)): with
    /// the pid it names the process for ever.
    pub start_ticks: u64,
    /// Absolute directories of its cgroups, by controller (`memory`, `pids`, `cpu`, `io`,
    /// `freezer`, `unified`).
    pub cgroups: BTreeMap<String, PathBuf>,
    /// What the sandbox goes without, one sentence each.
    pub degraded: Vec<String>,
}

/// What the child writes to the status pipe when a step of its setup fails, as one JSON object;
/// end of file without a failure means that the setup succeeded. Also a failure of the launcher itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {message}")]
pub struct LaunchFailure {
    /// The step that failed, in words a person understands: `mount the overlay at /usr`.
    pub step: String,
    /// The kernel's answer, as a number of errno(3); 0 when there is none.
    pub errno: i32,
    /// What happened, without host paths.
    pub message: String,
}

/// The content of `pid.json`.
pub type PidFile = Launched;

/// What `stacyvm-launcher --probe` prints: what a launch on this machine would give, found out by
/// launching.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The step that failed; none when a sandbox came up.
    pub failure: Option<LaunchFailure>,
    /// What the sandbox goes without, one sentence each.
    pub degraded: Vec<String>,
    /// Whether each sandbox has a range of ids of its own.
    pub id_ranges: bool,
    /// The version of Landlock in use, 0 for none.
    pub landlock: u32,
    /// Whether the kernel takes system call filters.
    pub seccomp: bool,
    /// `v1`, `v2`, `hybrid` or `none`.
    pub cgroups: String,
    /// Controllers under which the sandbox stood.
    pub controllers: Vec<String>,
}
