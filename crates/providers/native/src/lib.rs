//! The native provider: sandboxes from kernel namespaces on the server's own machine, made by the
//! launcher.
//!
//! Owns the boxes on disk, their ranges of user ids, the view of the host that the image `host`
//! is made of, and the launcher processes. The launcher sets up the inside of a sandbox, and the
//! agent runs the programs in it. The rule: everything about a box that a later server must know is
//! on disk before the box exists.
#![forbid(unsafe_code)]

mod agent;
mod blocking;
mod boxes;
mod cgroups;
mod config;
mod create;
mod data_dir;
mod degradations;
mod diagnose;
mod disk;
mod egress;
mod exec_defaults;
mod host_view;
mod image_archives;
mod image_errors;
mod image_ops;
mod image_users;
mod images;
mod io;
mod launcher;
mod layout;
mod limit_watch;
mod list;
mod meta;
mod network;
mod process;
mod provider;
mod pulls;
mod readiness;
mod remove;
mod reported_limits;
mod slots;
mod sockets;
mod stats;
mod trash;
mod users;

pub use config::{IoRates, NativeConfig};
pub use data_dir::images_dir;
pub use diagnose::{Finding, Level, diagnose};
pub use image_ops::{details_of, line_of, removed_of};
pub use image_users::ImageUsers;
pub use network::{NetworkChoice, NetworkSettings};
pub use provider::NativeProvider;
pub use pulls::ProgressThrottle;
