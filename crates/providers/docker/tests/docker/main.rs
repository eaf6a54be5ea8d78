//! The Docker provider with a real engine: looked at from inside, from outside, and after restarts.
//!
//! Needs an engine (`STACYVM_TEST_DOCKER`, such as `unix:///run/docker.sock`), an image with a shell
//! in it (`STACYVM_TEST_DOCKER_IMAGE`) and the static agent (`STACYVM_AGENT_BIN`); a test that
//! cannot run says so with its name.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod conformance;
mod fake_engine;
mod network;
mod support;
mod warm;
mod watch;
mod watch_faults;
mod world;
