//! The HTTP server: requests in, orchestrator calls out.
//!
//! Owns the wire: routes, authentication, limits, the one mapping of errors to statuses, streams.
//! Decides nothing about sandboxes. Its one non-obvious rule: a request that its client abandons is
//! dropped at once, wherever it is, so everything that a handler calls must tolerate being dropped.
#![forbid(unsafe_code)]

mod api_key;
mod attach;
mod auth;
mod body;
mod connections;
mod cors;
mod download;
mod error;
mod gunzip;
mod host;
mod http_metrics;
mod limiter;
mod listeners;
mod log_stream;
mod ndjson;
mod openapi;
mod owner;
mod paced_body;
mod previews;
mod query;
mod range;
mod rate;
mod request_id;
mod response;
mod router;
mod routes;
mod serve;
mod settings;
mod signals;
mod sse;
mod state;
mod target;
mod tickets;
mod trusted_proxies;
mod upload;
mod utf8;
mod ws;

pub use connections::ConnectionSettings;
pub use listeners::Listeners;
pub use paced_body::BodyPace;
pub use router::router;
pub use serve::serve;
pub use settings::{RateSettings, Secret, ServerSettings};
