//! Ports of sandboxes in a browser: from a host name or a path to a connection inside.
//!
//! Owns names, access, proxying and certificates of previews. The way inside is the agent's TCP
//! forward or something shorter, so a preview needs no network in the sandbox. Its rule: what
//! answers a preview's name belongs to a sandbox and is hostile, so nothing of the API is ever
//! reached by such a name, and nothing that came from inside is trusted with the API's origin.
#![forbid(unsafe_code)]

pub mod access;
mod body;
mod chain;
mod failure;
mod gate;
mod headers;
mod name;
mod origin;
mod pages;
mod pool;
mod preview;
mod private_file;
mod proxy;
mod room;
mod settings;
mod target;
pub mod tls;
mod tunnel;

pub use body::{BoxError, PreviewBody};
pub use failure::Failure;
pub use gate::{Gate, OpenGate, Pass, PreviewRequest, Verdict};
pub use name::{Domain, HostName, NameError, PreviewName};
pub use pages::failed;
pub use preview::{Preview, Tasks};
pub use settings::PreviewSettings;
pub use target::{Form, Found, Origin, Target};
