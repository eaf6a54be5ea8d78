//! The end-to-end tests have no library: they drive the real program from outside. See
//! `tests/e2e/` for those in Rust and `python/` for those with the published Python client.
#![forbid(unsafe_code)]
