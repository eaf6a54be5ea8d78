//! The program inside every sandbox: runs commands, serves files and ports, reaps.
//!
//! Owns everything that happens inside; knows no provider. It speaks `stacyvm-proto` on a listening
//! unix socket, on its standard input and output, or on both, and every peer may do everything. Who
//! reaches them from outside is the provider's affair; from inside nobody may. One thread does the work; what could keep it long goes to a few others.
#![forbid(unsafe_code)]

mod agent;
mod blocking;
mod exec;
mod failure;
pub mod files;
mod forward;
mod init;
mod links;
mod logs;
mod preparation;
mod processes;
mod pty;
mod serve;
mod tree;
mod usage;
mod users;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

pub use stacyvm_sys::caps::Set as Capabilities;
pub use users::user_numbers;

/// What an agent is started with.
#[derive(Debug)]
pub struct AgentOptions {
    /// A listening unix stream socket.
    pub listener: Option<OwnedFd>,
    /// Standard input and output, when peers come over them (`stacyvm_proto::link`).
    pub stdio: Option<[OwnedFd; 2]>,
    /// Whether the agent starts in a root that somebody else made, as root: it makes the workspace
    /// and the user, and then gives up every capability that it no longer needs.
    pub prepare: bool,
    /// What a command that runs as user 0 may have, out of what the agent has; with `prepare`.
    pub root_capabilities: Capabilities,
    /// `/`, or the directory that stands for it where nothing isolates (the mock provider).
    pub root: PathBuf,
    /// Whether this is the first process of a pid namespace.
    pub init: bool,
    /// The sandbox's user: commands run as it, files belong to it.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The sandbox's `memory.events` (cgroup v2) or `memory.oom_control` (v1), open for reading.
    pub memory_events: Option<OwnedFd>,
}

/// Serves until it is told to end; the answer is the process's exit code.
pub fn run(options: AgentOptions) -> ExitCode {
    match init::prepare(options).and_then(init::serve_until_told) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stacyvm-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
