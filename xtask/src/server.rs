//! The `stacyvm` binary with its two programs inside, for people to run.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::agent;
use crate::tools::{run, step};
use crate::workspace::Workspace;

/// Builds everything with one profile and leaves the binary in `target/stacyvm`.
pub(crate) fn build(workspace: &Workspace, profile: &str) -> Result<PathBuf> {
    agent::build(workspace)?;
    step(&format!("build stacyvm, profile {profile}"), || {
        run(&mut workspace.cargo(&["build", "--package", "stacyvm", "--profile", profile]))
    })?;
    let built = workspace.target.join(profile).join("stacyvm");
    let handy = workspace.target.join("stacyvm");
    // Copied under another name first: the old one may be running.
    let temporary = workspace.target.join("stacyvm.new");
    fs::copy(&built, &temporary)
        .and_then(|_| fs::rename(&temporary, &handy))
        .with_context(|| format!("copy {}", workspace.shown(&built)))?;
    println!("{}", workspace.shown(&handy));
    Ok(handy)
}

/// A release build, checked, with its size.
pub(crate) fn dist(workspace: &Workspace) -> Result<()> {
    agent::check(workspace)?;
    let binary = build(workspace, "release")?;
    eprintln!("    {} bytes", fs::metadata(&binary)?.len());
    Ok(())
}
