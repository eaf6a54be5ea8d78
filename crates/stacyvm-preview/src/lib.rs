//! Ports of sandboxes in a browser: from a host name or a path to a connection into the sandbox.
//!
//! Owns names, access, proxying and certificates of previews. Connections into a sandbox go through
//! the agent's TCP forward or a shorter way of the provider, so a preview needs no network in the
//! sandbox. Its rule: what answers under a preview's name belongs to a sandbox and is hostile, so
//! nothing of the API is ever reached by such a name, and no answer of a sandbox is trusted with
//! the API's origin.
#![forbid(unsafe_code)]

pub mod access;
mod connections;
mod error_chain;
mod failure;
mod gate;
mod headers;
mod location;
mod misses;
mod name;
mod origin;
mod pages;
mod pool;
mod preview;
mod private_file;
mod proxy;
mod request_body;
mod response_body;
mod settings;
mod target;
mod tasks;
pub mod tls;
mod tunnel;

pub use failure::Failure;
pub use gate::{Gate, Grant, OpenGate, PreviewRequest, Verdict};
pub use name::{Domain, HostName, NameError, PreviewName};
pub use pages::failed;
pub use preview::Preview;
pub use request_body::BoxError;
pub use response_body::PreviewBody;
pub use settings::PreviewSettings;
pub use target::{ClientInfo, Form, Found, Target};
pub use tasks::Tasks;
