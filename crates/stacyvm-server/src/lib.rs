//! The front door: HTTP in, orchestrator calls out.
//!
//! Owns the wire: routes, authentication, limits, the one mapping of errors to statuses, streams.
//! Decides nothing about sandboxes. Its one non-obvious rule: a request that its client abandons is
//! dropped at once, wherever it stands, so everything behind a handler must bear being dropped.
#![forbid(unsafe_code)]

mod attach;
mod auth;
mod body;
mod cors;
mod door;
mod doors;
mod download;
mod error;
mod follow;
mod front;
mod gunzip;
mod host;
mod limiter;
mod ndjson;
mod openapi;
mod owner;
mod previews;
mod query;
mod range;
mod rate;
mod request_id;
mod routes;
mod serve;
mod settings;
mod signals;
mod sse;
mod stall;
mod target;
mod tickets;
mod traffic;
mod upload;
mod utf8;
mod ws;

pub use doors::Doors;
pub use front::router;
pub use serve::serve;
pub use settings::{RateSettings, Secret, ServerSettings};
