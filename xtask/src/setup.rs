//! What checks and tests need beside Rust: packages of the system, a Python environment, and the
//! programs that cargo installs.
//!
//! One rule that is easy to miss: each part does nothing when it is there already, so that every task
//! may call it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::tools::{run, step, works};
use crate::workspace::{self, Workspace};

/// The release of cargo-deny that `deny.toml` was written for.
const CARGO_DENY: &str = "cargo-deny@0.20.2";

/// Installs everything.
pub(crate) fn run_all(workspace: &Workspace) -> Result<()> {
    packages(workspace)?;
    nextest(workspace)?;
    cargo_deny(workspace)
}

/// Packages of the system and of Python.
pub(crate) fn packages(workspace: &Workspace) -> Result<()> {
    step("set up what the tests need", || {
        run(Command::new("sh")
            .arg(workspace.root.join("scripts/test-setup"))
            .arg(virtual_environment(workspace))
            .arg(workspace.root.join("tests/e2e/python/requirements.txt")))
    })
}

/// Where the Python packages of the tests are.
pub(crate) fn virtual_environment(workspace: &Workspace) -> PathBuf {
    workspace.target.join("venv")
}

/// The program that guards licences and sources: the one that was installed here, or else one that the
/// machine has.
pub(crate) fn cargo_deny_program(workspace: &Workspace) -> Option<PathBuf> {
    let programs = [tools(workspace).join("bin/cargo-deny"), "cargo-deny".into()];
    programs
        .into_iter()
        .find(|program| works(&program.to_string_lossy(), &["--version"]))
}

/// The runner of the tests goes where cargo looks for its subcommands.
fn nextest(workspace: &Workspace) -> Result<()> {
    if works("cargo-nextest", &["nextest", "--version"]) {
        return Ok(());
    }
    step(
        "install cargo-nextest, which takes some minutes once",
        || {
            run(Command::new(workspace::cargo())
                .current_dir(&workspace.root)
                .args(["install", "--quiet", "--locked", "cargo-nextest"]))
        },
    )
}

fn cargo_deny(workspace: &Workspace) -> Result<()> {
    if cargo_deny_program(workspace).is_some() {
        return Ok(());
    }
    step("install cargo-deny, which takes some minutes once", || {
        run(Command::new(workspace::cargo())
            .current_dir(&workspace.root)
            .args(["install", "--quiet", "--locked", CARGO_DENY])
            // Without advisories from the network it needs no client for git.
            .args(["--no-default-features", "--profile", "dev"])
            .arg("--root")
            .arg(tools(workspace))
            .arg("--target-dir")
            .arg(workspace.target.join("tools-build")))
    })
}

fn tools(workspace: &Workspace) -> PathBuf {
    workspace.target.join("tools")
}
