//! The image store through its front door: archives, registries, faults.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod archives;
mod builder;
mod child;
mod faults;
mod fixture;
mod import;
mod layers;
mod proxy;
mod pull;
mod registry;
mod removal;
mod strangers;
mod trust;
