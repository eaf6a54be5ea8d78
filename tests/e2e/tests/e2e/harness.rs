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

use std::io::Write;
use std::time::{Duration, Instant};

pub(crate) use server::{Options, Server};

/// How long a condition may take that normally holds in milliseconds. Generous, because it only
/// decides how long a failing test takes.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Waits until `condition` holds; panics with `what` when it does not in time.
#[track_caller]
pub(crate) fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says loudly that a test did not run, where `cargo xtask test` finds it.
pub(crate) fn skip(test: &str, reason: &str) {
    let line = format!("SKIP {test}: {reason}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("STACYVM_SKIPPED_TESTS")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).open(path)
    {
        let _ = writeln!(file, "{line}");
    }
}

/// Leaves the test, loudly, when we are not root.
macro_rules! need_root {
    ($test:literal) => {
        if !crate::harness::is_root() {
            crate::harness::skip($test, "needs root");
            return;
        }
    };
}
pub(crate) use need_root;
