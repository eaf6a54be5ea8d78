//! What a backend must do to be a provider, and the suite that checks that it does.
//!
//! A provider only makes boxes: create one with the agent in it, hand out its operations, list
//! the boxes it has, destroy one, say what it can do. It knows nothing of time to live, owners'
//! rights, HTTP or the store.
#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod image_defaults;
mod images;
mod notices;
mod provider;
mod sandbox;
mod spec;
mod unclaimed;

pub use error::ProviderError;
pub use image_defaults::{ImageDefaults, directory_stands};
pub use images::{ArchiveKind, ImageHold, ImageOps};
pub use notices::Notices;
pub use provider::{BoxMonitor, Boxes, ImageSource, Networks, Provider, ProviderInfo};
pub use sandbox::{
    AgentConnector, AgentSandbox, ByteStream, Execs, Files, Liveness, Logs, PortConnection, Ports,
    SandboxOps, UnixConnector, bind_unix,
};
pub use spec::{BoxInfo, BoxSpec, BoxState, Capability, Egress, Health, NetworkMode, Notice};
pub use stacyvm_agent_client as ops;
pub use unclaimed::Unclaimed;

/// Every trait of providers and of boxes, for code that calls the methods of a concrete type.
pub mod prelude {
    pub use crate::{BoxMonitor as _, Boxes as _, ImageSource as _, Networks as _};
    pub use crate::{Execs as _, Files as _, Liveness as _, Logs as _, Ports as _};
    pub use crate::{Provider as _, ProviderInfo as _, SandboxOps as _};
}
