//! The way out of sandboxes: a small process outside of them that resolves names, and through
//! which sandboxes with a list of domains reach those and nothing else.
//!
//! Owns the process ([`run`]), its control socket, and the provider's end of it
//! ([`EgressHandle`]). Knows nothing of network interfaces and packet filters: the provider sends
//! connections here and keeps addresses from being forged. Its one rule: what is not allowed by
//! name is refused, and what a name leads to is judged too.
#![forbid(unsafe_code)]

mod client;
mod confine;
mod control;
mod dial;
mod dns;
mod doors;
mod judge;
mod listeners;
mod members;
mod notices;
mod proxy;
mod rate;
mod resolver;
mod server;
mod sniff;

pub use client::{EgressError, EgressHandle, Notices, Program};
pub use control::{Identity, Limits, Notice, Policy, Ready, Reason, Settings};
pub use server::{Failure, run};
