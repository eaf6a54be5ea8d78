//! The launcher of native sandboxes: one small single-threaded process that turns requests into
//! sandboxes.
//!
//! It owns everything between a request and the moment when the sandbox's first process goes on as
//! the agent. It knows nothing of images, time to live or the agent's protocol. Its non-obvious
//! rule: it never waits for a child's setup. A child reports by itself, on the status pipe that
//! came with the request.
#![forbid(unsafe_code)]

pub mod control;

mod box_dir;
mod child;
mod degraded;
mod failure;
mod launch;
mod overlay;
mod probe;
mod request;
mod serve;
mod state;
mod steps;

use std::os::fd::OwnedFd;
use std::process::ExitCode;

pub use probe::probe;
pub use serve::serve;

/// What a sandbox's first process passes to its entrypoint when the setup is done.
#[derive(Debug)]
pub struct Handover {
    /// Listening unix socket.
    pub listener: OwnedFd,
    /// Read-only; has a line `oom_kill N`. None without a memory cgroup.
    pub memory_events: Option<OwnedFd>,
    /// User that execs run as, as a number inside.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
}

/// The program that a sandbox's first process goes on as when the setup is done.
pub type Entrypoint = fn(Handover) -> ExitCode;

/// Settings of the launcher.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The program that a sandbox's first process goes on as.
    pub entrypoint: Entrypoint,
    /// Whether layers of overlays are named by path even where the kernel takes descriptors.
    pub overlay_by_path: ByPath,
}

/// When layers are named by path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByPath {
    /// Where the kernel takes no descriptors for them: before Linux 6.13.
    #[default]
    WhereNeeded,
    /// Always.
    Always,
    /// Always, and all in one text, as kernels before Linux 6.7 need it.
    AtOnce,
}
