//! Sandboxes as containers of a Docker Engine, whatever its runtime: runc, gVisor, Kata.
//!
//! This crate owns the requests to the engine and finds its containers again after a restart. It
//! knows nothing of commands and files: the agent inside serves them, over a stream that this crate
//! connects. Its one rule: the engine is the source of truth. Nothing about a container is stored
//! anywhere else, so a restarted server finds all of it there.
#![forbid(unsafe_code)]

mod agent;
mod agent_volume;
mod attach;
mod connections;
mod connector;
mod containers;
mod engine;
mod images;
mod limits;
#[cfg(target_os = "linux")]
mod local_socket;
mod machine;
mod names;
mod network;
mod parameters;
mod plan;
mod probe;
mod provider;
mod runtimes;
mod sandboxes;
mod settings;
mod start;
mod stats;
mod traefik;
mod trial;
mod warm;
mod watch;

pub use engine::{EngineAddress, TlsFiles};
pub use network::{NetworkChoice, NetworkSettings};
pub use parameters::Seccomp;
pub use provider::DockerProvider;
pub use settings::DockerSettings;
pub use traefik::Traefik;
pub use warm::WarmSettings;
