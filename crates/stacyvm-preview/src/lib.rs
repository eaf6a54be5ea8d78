//! Ports of sandboxes in a browser: from a host name or a path to a connection inside.
//!
//! Owns names, access, proxying and certificates of previews. The way inside is the agent's TCP
//! forward, so a preview needs no network in the sandbox.
#![forbid(unsafe_code)]

pub mod access;
mod chain;
mod private_file;
pub mod tls;
