//! The front door from outside: a real listener, the real orchestrator, an in-memory store.
#![allow(clippy::unwrap_used)]

mod archives;
mod bad_days;
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
mod ws;
