//! Sandboxes as containers of a Docker Engine, whatever its runtime: runc, gVisor, Kata.
//!
//! Owns what is asked of the engine and how it is found again after a restart. Knows nothing of
//! commands and files: the agent inside serves them, over a stream that this hands out.
#![forbid(unsafe_code)]

mod traefik;

pub use traefik::Traefik;
