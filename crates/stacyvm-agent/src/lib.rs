//! The program inside every sandbox: runs commands, serves files and ports, reaps.
//!
//! Owns everything that happens inside; knows no provider. It speaks `stacyvm-proto` on a listening
//! unix socket that it is given, and every peer on it may do everything: who reaches the socket is
//! the provider's affair. One thread does the work; what could keep it long goes to a few others.
#![forbid(unsafe_code)]

mod agent;
mod blocking;
mod exec;
mod failure;
pub mod files;
mod forward;
mod init;
mod logs;
mod processes;
mod pty;
mod serve;
mod tree;
mod usage;
mod users;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

pub use users::user_numbers;

/// What an agent is started with.
#[derive(Debug)]
pub struct AgentOptions {
    /// A listening unix stream socket.
    pub listener: OwnedFd,
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
