//! Where the workspace is, what is in it, and how cargo is called for it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::tools;

/// The workspace that this program was built from.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// Its directory.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// What `cargo metadata --no-deps` says.
    pub(crate) metadata: Value,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let metadata = metadata(&["--no-deps"])?;
        let path = |key: &str| {
            metadata[key]
                .as_str()
                .map(PathBuf::from)
                .with_context(|| format!("cargo metadata has no {key}"))
        };
        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
            metadata,
        })
    }

    /// Everything in the lock file, with licences and targets.
    pub(crate) fn full_metadata(&self) -> Result<Value> {
        metadata(&["--locked", "--filter-platform", &host_target()])
    }

    /// A cargo command in the workspace. The programs for inside are handed to every build that
    /// may need them in the same way, so that no build invalidates another.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(cargo());
        command
            .args(arguments)
            .current_dir(&self.root)
            .env("STACYVM_EMBED_AGENT", self.agent_program("stacyvm-agent"))
            .env(
                "STACYVM_EMBED_LAUNCHER",
                self.agent_program("stacyvm-launcher"),
            );
        command
    }

    /// Where `cargo xtask agent` leaves a program.
    pub(crate) fn agent_program(&self, name: &str) -> PathBuf {
        self.target.join("agent").join(name)
    }

    /// Relative to the root, for people to read.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}

/// The cargo that runs us.
pub(crate) fn cargo() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The gnu target of the machine that this program runs on.
pub(crate) fn host_target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

fn metadata(arguments: &[&str]) -> Result<Value> {
    // As cargo says now, not as it was when this program was compiled: clones that share a target
    // directory share this program too.
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = manifest_dir
        .parent()
        .context("xtask has no parent directory")?;
    let text = tools::output(
        Command::new(cargo())
            .args(["metadata", "--format-version", "1"])
            .args(arguments)
            .current_dir(root),
    )?;
    serde_json::from_str(&text).context("read cargo metadata")
}
