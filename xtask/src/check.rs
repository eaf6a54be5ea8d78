//! Everything that can be said about the code without running it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::tools::{self, run, step, works};
use crate::workspace::{self, Workspace};
use crate::{agent, layers, openapi};

/// The quick checks first.
pub(crate) fn everything_but_tests(workspace: &Workspace) -> Result<()> {
    format(workspace)?;
    step("layers", || layers::check(workspace))?;
    step("lock files", || lock_files(workspace))?;
    step("licences, sources and duplicates", || deny(workspace))?;
    step("shell scripts", || shellcheck(workspace))?;
    step("agent size and symbols", || agent::check(workspace))?;
    clippy(workspace)?;
    step("documentation of the code", || {
        run(workspace
            .cargo(&["doc", "--locked", "--workspace", "--no-deps"])
            .arg("--document-private-items")
            .env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    // A test, but one that compares two texts; it needs all of the server to make one of them.
    step("description of the API", || {
        openapi::run(workspace, openapi::Stale::Fail)
    })
}

/// Whether both lock files say what the manifests do: the fuzz targets are a workspace of their own, and are
/// built last.
fn lock_files(workspace: &Workspace) -> Result<()> {
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        tools::output(
            Command::new(workspace::cargo())
                .current_dir(&workspace.root)
                .args(["metadata", "--locked", "--format-version", "1"])
                .args(["--manifest-path", manifest]),
        )
        .with_context(|| format!("run `cargo update --workspace --manifest-path {manifest}`"))?;
    }
    Ok(())
}

/// Whether every file is formatted.
pub(crate) fn format(workspace: &Workspace) -> Result<()> {
    step("format", || {
        run(&mut workspace.cargo(&["fmt", "--all", "--", "--check"]))
    })
}

/// Lints of all code, tests included.
pub(crate) fn clippy(workspace: &Workspace) -> Result<()> {
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
    })
}

/// What `deny.toml` says. Advisories are asked for by the forge's workflow: their database is not in a
/// package registry.
fn deny(workspace: &Workspace) -> Result<()> {
    let Some(program) = setup::cargo_deny_program(workspace) else {
        bail!("cargo-deny is not installed: cargo xtask setup");
    };
    run(Command::new(program)
        .current_dir(&workspace.root)
        .args(["--locked", "--log-level", "error"])
        .args(["check", "--hide-inclusion-graph"])
        .args(["bans", "licenses", "sources"]))
}

/// Every script that git knows and that begins as a shell's.
fn shellcheck(workspace: &Workspace) -> Result<()> {
    if !works("shellcheck", &["--version"]) {
        bail!("shellcheck is not installed: cargo xtask setup");
    }
    let listing = tools::output(Command::new("git").current_dir(&workspace.root).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let scripts: Vec<&str> = listing
        .lines()
        .filter(|name| fs::read(workspace.root.join(name)).is_ok_and(|text| is_shell(&text)))
        .collect();
    eprintln!("    {} scripts", scripts.len());
    run(Command::new("shellcheck")
        .current_dir(&workspace.root)
        .arg("--")
        .args(scripts))
    .context("shellcheck found something")
}

fn is_shell(text: &[u8]) -> bool {
    let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    first.starts_with(b"#!") && (first.ends_with(b"/sh") || first.ends_with(b"bash"))
}

#[cfg(test)]
mod tests {
    use super::is_shell;

    #[test]
    fn a_script_is_known_by_its_first_line() {
        assert!(is_shell(b"#!/bin/sh\nset -eu\n"));
        assert!(is_shell(b"#!/usr/bin/env bash\n"));
        assert!(!is_shell(b"#!/usr/bin/env python3\n"));
        assert!(!is_shell(b"text with sh\n"));
    }
}
