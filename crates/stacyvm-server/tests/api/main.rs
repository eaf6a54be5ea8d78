//! The front door from outside: a real listener, the real orchestrator, an in-memory store.
#![allow(clippy::unwrap_used)]

mod bad_days;
mod boxes;
mod doors;
mod exec;
mod fake;
mod files;
mod http;
mod logging;
mod mock;
mod sandboxes;
mod support;
mod system;
mod transport;
