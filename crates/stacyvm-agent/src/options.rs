//! The options that an agent is started with.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use stacyvm_sys::caps::Set as Capabilities;

/// The options of an agent.
#[derive(Debug)]
pub struct AgentOptions {
    /// A listening unix stream socket.
    pub listener: Option<OwnedFd>,
    /// Standard input and output, when peers connect over them (`stacyvm_proto::link`).
    pub stdio: Option<[OwnedFd; 2]>,
    /// Whether the agent starts as root in a root file system of a container engine. It then makes
    /// the workspace and the user, and gives up every capability that it no longer needs.
    pub prepare: bool,
    /// With `prepare`: the capabilities of commands that run as user 0, of those that the agent has.
    pub root_capabilities: Capabilities,
    /// `/`, or the directory that stands for it where nothing isolates (the mock provider).
    pub root: PathBuf,
    /// Whether this is the first process of a pid namespace.
    pub init: bool,
    /// User id of the sandbox's user: commands run as this user, and files belong to it.
    pub uid: u32,
    /// Group id of the sandbox's user.
    pub gid: u32,
    /// The sandbox's `memory.events` (cgroup v2) or `memory.oom_control` (v1), open for reading.
    pub memory_events: Option<OwnedFd>,
}
