//! Launches real sandboxes over the control socket and looks at them from inside and outside.
//!
//! Most of them run a script, by the `scripted` example; the real program with the agent has a
//! module of its own. Needs root and python3; without, each test skips loudly.
#![allow(clippy::unwrap_used)]

mod agent;
mod confined;
mod disk;
mod failures;
mod support;
mod without_root;

use std::path::{Path, PathBuf};

use stacyvm_testing::{root_or_skip, skip};

/// Whether sandboxes can be launched here; says loudly when not.
fn can_launch() -> bool {
    if !root_or_skip() {
        return false;
    }
    let can_look = Path::new("/usr/bin/python3").exists();
    if !can_look {
        skip("looking at a sandbox from inside needs /usr/bin/python3");
    }
    can_look
}

/// The launcher whose sandboxes run a script; none where it cannot work.
fn scripted() -> Option<PathBuf> {
    if !can_launch() {
        return None;
    }
    let own = std::env::current_exe().unwrap();
    let program = own
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/scripted");
    assert!(
        program.exists(),
        "build the examples first: cargo build -p stacyvm-launcher --examples"
    );
    Some(program)
}
