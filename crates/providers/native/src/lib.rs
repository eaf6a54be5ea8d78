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
mod image_archives;
mod image_errors;
mod image_ops;
mod image_users;
mod images;
mod inner;
mod io;
mod launcher;
mod layout;
mod meta;
mod network;
mod opened;
mod ports;
mod process;
mod provider;
mod pulls;
mod readiness;
mod slots;
mod stats;
mod trash;
mod users;
mod watch;
mod wishes;

pub use config::{IoRates, NativeConfig};
pub use diagnose::{Finding, Level, diagnose};
pub use image_ops::{details_of, line_of, removed_of};
pub use image_users::ImageUsers;
pub use network::{NetworkChoice, NetworkSettings};
pub use opened::images_dir;
pub use provider::NativeProvider;
pub use pulls::PullPace;
