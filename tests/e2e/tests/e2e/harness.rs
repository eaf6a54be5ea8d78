//! What every test stands on: a server of its own, a way to talk to it, and a look at what the
//! host holds.

pub(crate) mod docker;
pub(crate) mod engine;
pub(crate) mod gate;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod oci;
pub(crate) mod registry;
pub(crate) mod server;
pub(crate) mod world;

use std::time::Duration;

pub(crate) use server::{Options, Server};
pub(crate) use stacyvm_testing::{is_root, skip, wait_within as eventually};

/// How long a condition may take that normally holds in milliseconds.
pub(crate) const SOON: Duration = stacyvm_testing::WAIT_TIMEOUT;

/// Leaves the test, which is skipped, when it does not run as root.
macro_rules! need_root {
    () => {
        if !stacyvm_testing::root_or_skip() {
            return;
        }
    };
}
pub(crate) use need_root;
