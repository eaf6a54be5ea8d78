//! The front door: HTTP in, orchestrator calls out.
//!
//! Owns the wire: routes, authentication, limits, the one mapping of errors to statuses, streams.
//! Decides nothing about sandboxes. Its one non-obvious rule: a request that its client abandons is
//! dropped at once, wherever it stands, so everything behind a handler must bear being dropped.
#![forbid(unsafe_code)]

mod auth;
mod body;
mod cors;
mod download;
mod error;
mod front;
mod gunzip;
mod host;
mod ndjson;
mod owner;
mod query;
mod range;
mod request_id;
mod routes;
mod serve;
mod settings;
mod target;
mod traffic;
mod upload;
mod utf8;

pub use front::router;
pub use serve::serve;
pub use settings::{Secret, ServerSettings};
