//! No path of the file operations leads out of the sandbox.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use stacyvm_types::FileMode;

use super::harness::{Harness, ensure_equal, ensure_error};
use super::sandbox::Sandbox;
use crate::ops::OpError;

const CONTENT: &str = "nobody was here";

/// A file of the host that no process inside may reach, removed at the end.
struct Canary(PathBuf);

impl Canary {
    fn lay(sandbox: &Sandbox) -> Result<Self> {
        let path = std::env::temp_dir().join(format!(
            "stacyvm-canary-{}-{}",
            std::process::id(),
            sandbox.id
        ));
        std::fs::write(&path, CONTENT).context("lay the canary")?;
        Ok(Self(path))
    }

    fn is_untouched(&self) -> bool {
        std::fs::read_to_string(&self.0).is_ok_and(|content| content == CONTENT)
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A link to a path of the host means that path inside.
pub async fn links_lead_nowhere_outside(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let ops = &sandbox.ops;
    let canary = Canary::lay(&sandbox)?;
    let host = canary.0.display();
    let climb = "../".repeat(24);
    sandbox.write("inside", "inside").await?;
    sandbox
        .say(&format!(
            "ln -s {host} absolute; ln -s {climb}{host} climbing; ln -s / top; ln -s /proc/1/root process; \
             ln -s {climb}workspace/inside round"
        ))
        .await?;
    for trap in ["absolute", "climbing"] {
        ensure_error!(sandbox.read(trap).await, OpError::NotFound(_));
        ensure_error!(
            ops.chmod(trap, FileMode::from_bits(0o777)).await,
            OpError::NotFound(_)
        );
    }
    for trap in ["absolute", "climbing"] {
        // Inside there may be such a directory or not; outside nothing may happen.
        if sandbox.write(trap, "written").await.is_ok() {
            ensure_equal!(sandbox.read(trap).await?, b"written".to_vec());
        }
        ensure!(canary.is_untouched(), "writing through {trap} got out");
        ops.remove(trap, true).await?;
        ensure!(canary.is_untouched(), "removing {trap} got out");
    }
    ensure_equal!(
        sandbox.read("top/workspace/inside").await?,
        b"inside".to_vec()
    );
    ensure_equal!(sandbox.read("round").await?, b"inside".to_vec());
    let through_process = format!("process{host}");
    ensure!(sandbox.read(&through_process).await.is_err());
    let entered = format!("top/proc/self/root{host}");
    ensure!(sandbox.read(&entered).await.is_err());
    for removed in ["top", "process"] {
        ops.remove(removed, true).await?;
    }
    ensure_equal!(sandbox.read("inside").await?, b"inside".to_vec());
    ensure!(canary.is_untouched(), "something got out");
    Ok(())
}

/// Dots that would climb over the root are invalid.
pub async fn dots_lead_nowhere_outside(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let canary = Canary::lay(&sandbox)?;
    let climb = "../".repeat(24);
    for path in [
        format!("{climb}{}", canary.0.display()),
        format!("/{climb}{}", canary.0.display()),
        "/..".to_owned(),
        "../../etc/passwd".to_owned(),
    ] {
        ensure_error!(sandbox.read(&path).await, OpError::Invalid(_));
        ensure_error!(sandbox.write(&path, "x").await, OpError::Invalid(_));
        ensure_error!(sandbox.ops.remove(&path, true).await, OpError::Invalid(_));
        ensure_error!(sandbox.ops.list(&path, 1).await, OpError::Invalid(_));
    }
    sandbox.write("dir/../file", "x").await?;
    ensure_equal!(sandbox.read("../workspace/file").await?, b"x".to_vec());
    ensure!(canary.is_untouched(), "something got out");
    Ok(())
}
