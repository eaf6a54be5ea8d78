//! The real program between three network namespaces that each test makes itself: a sandbox, the
//! host, and a piece of internet with name server, web and TLS servers.
//!
//! The host redirects connections with nftables, as a provider does. Needs root, `ip`, `nft` and
//! `unshare`; without, each test skips loudly.
#![allow(clippy::unwrap_used)]

mod http;
mod life;
mod limits;
mod names;
mod servers;
mod tls;
mod world;
