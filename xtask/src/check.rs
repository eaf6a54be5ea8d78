//! Everything that can be said about the code without running it.

use std::process::Command;

use anyhow::Result;

use crate::tools::{run, step, works};
use crate::workspace::{self, Workspace};
use crate::{agent, layers, licences, openapi};

/// The quick checks first.
pub(crate) fn everything_but_tests(workspace: &Workspace) -> Result<()> {
    step("format", || {
        run(&mut workspace.cargo(&["fmt", "--all", "--", "--check"]))
    })?;
    step("layers", || layers::check(workspace))?;
    step("licences", || licences::check(workspace))?;
    step("cargo deny", || deny(workspace))?;
    step("agent size and symbols", || agent::check(workspace))?;
    step("clippy", || {
        run(&mut workspace.cargo(&[
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    // A test, but one that compares two texts; it needs all of the server to make one of them.
    step("description of the API", || {
        openapi::run(workspace, openapi::Stale::Fail)
    })
}

/// What `deny.toml` says, where the program is installed: building it takes longer than all of
/// the project, so it is not installed here. Advisories are left to a person, because their
/// database is not in a package registry.
fn deny(workspace: &Workspace) -> Result<()> {
    if !works("cargo-deny", &["--version"]) {
        eprintln!("SKIP cargo deny: not installed (cargo install --locked cargo-deny)");
        return Ok(());
    }
    run(Command::new(workspace::cargo())
        .current_dir(&workspace.root)
        .args(["deny", "--offline", "check", "bans", "licenses", "sources"]))
}
