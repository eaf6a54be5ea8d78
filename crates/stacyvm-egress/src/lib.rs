//! The way out of sandboxes: a small process outside of them that resolves names, and through
//! which sandboxes with a list of domains reach those and nothing else.
//!
//! Owns the process ([`run`]), its control socket, and the provider's end of it
//! ([`EgressHandle`]). Knows nothing of network interfaces and packet filters: the provider
//! redirects connections here and keeps sandboxes from forging addresses. Its one rule: a name that
//! is not allowed is refused, and so is a name that leads to an address that is not.
#![forbid(unsafe_code)]

mod address_filter;
mod client;
mod confine;
mod connection_limits;
mod control;
mod dial;
mod dns;
mod failure;
mod listeners;
mod notices;
mod proxy;
mod rate;
mod resolver;
mod sandboxes;
mod server;
mod sniff;

pub use client::{EgressError, EgressHandle, Notices, Program};
pub use control::{Identity, Limits, Notice, Policy, Ready, Reason, Settings};
pub use failure::Failure;
pub use server::run;
