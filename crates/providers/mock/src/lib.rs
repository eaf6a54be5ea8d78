//! A provider whose sandboxes are plain directories, each with a real agent as an ordinary process:
//! for tests, and for trying things out where nothing better works.
//!
//! This crate owns those directories and processes. It isolates nothing and says so. Its one rule:
//! what is on disk decides, so a restarted server finds every sandbox of its predecessor.
#![forbid(unsafe_code)]

mod directory;
mod leftovers;
mod process;
mod provider;
mod reference;

pub use provider::MockProvider;
