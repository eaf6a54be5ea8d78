//! The native provider: sandboxes from kernel namespaces on this very machine, over the launcher.
//!
//! Owns the boxes on disk, their ranges of user ids, the view of the host that the image `host`
//! is made of, and the launcher processes. What is set up inside a sandbox is the launcher's
//! work, what runs in it the agent's. Its one rule: everything about a box that a later server
//! must know stands on disk before the box exists.
#![forbid(unsafe_code)]

mod agent;
mod boxes;
mod cgroups;
mod config;
mod create;
mod diagnose;
mod disk;
mod host_view;
mod images;
mod inner;
mod io;
mod launcher;
mod layout;
mod meta;
mod network;
mod opened;
mod process;
mod provider;
mod readiness;
mod slots;
mod stats;
mod trash;
mod users;
mod watch;

pub use config::{IoRates, NativeConfig};
pub use diagnose::{Finding, Level, diagnose};
pub use network::{NetworkChoice, NetworkSettings};
pub use opened::images_dir;
pub use provider::NativeProvider;
