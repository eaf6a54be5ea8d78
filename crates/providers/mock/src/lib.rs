//! Sandboxes as plain directories, each with a real agent as an ordinary process: for tests and
//! for trying things out where nothing better works.
//!
//! Owns those directories and processes. Isolates nothing and says so. Its one rule: what is on
//! disk decides, so that a server that starts again finds every sandbox of the one before.
#![forbid(unsafe_code)]

mod home;
mod leftovers;
mod process;
mod provider;
mod reference;

pub use provider::MockProvider;
