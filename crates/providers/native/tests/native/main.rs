//! The native provider with real sandboxes: examined from inside and outside, and attacked.
//!
//! Needs root and the launcher program (`STACYVM_LAUNCHER_BIN`, or built here by cargo); a test
//! that cannot run says so with its name.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod attacks;
mod conformance;
mod crashes;
mod files;
mod host_files;
mod images;
mod inside;
mod life;
mod limits;
mod network;
mod ports;
mod refused;
mod shared;
mod support;
mod unprivileged;
