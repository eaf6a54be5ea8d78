//! Tests of the Docker provider with a real engine: from inside sandboxes, from outside, and after
//! restarts.
//!
//! Needs an engine (`STACYVM_TEST_DOCKER`, such as `unix:///run/docker.sock`), an image with a shell
//! in it (`STACYVM_TEST_DOCKER_IMAGE`) and the static agent (`STACYVM_AGENT_BIN`). A test that cannot
//! run prints its name.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod conformance;
mod fake_engine;
mod images;
mod isolated_network;
mod network;
mod refused;
mod remote_engine;
mod support;
mod users;
mod warm;
mod watch;
mod watch_faults;
