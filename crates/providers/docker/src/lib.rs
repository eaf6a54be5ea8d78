//! Sandboxes as containers of a Docker Engine, whatever its runtime: runc, gVisor, Kata.
//!
//! Owns what is asked of the engine and how it is found again after a restart. Knows nothing of
//! commands and files: the agent inside serves them, over a stream that this hands out. Its one
//! rule: the engine is the truth. Nothing about a container is kept anywhere else, so a server that
//! starts again finds all of it there.
#![forbid(unsafe_code)]

mod agent;
mod attach;
mod connector;
mod create;
mod engine;
mod images;
mod inner;
mod machine;
mod names;
#[cfg(target_os = "linux")]
mod nearby;
mod network;
mod parameters;
mod provider;
mod removal;
mod runtimes;
mod settings;
mod stats;
mod traefik;
mod trial;
mod volume;
mod warm;
mod watch;

pub use engine::{EngineAddress, TlsFiles};
pub use network::{NetworkChoice, NetworkSettings};
pub use parameters::Seccomp;
pub use provider::DockerProvider;
pub use settings::DockerSettings;
pub use traefik::Traefik;
pub use warm::WarmSettings;
