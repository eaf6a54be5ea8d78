//! The rules of ARCHITECTURE.md that a machine can check: who may know whom, how long a file may
//! be, where `unsafe` may stand, and that every file says what it is for.

mod circles;
mod dependencies;
mod files;
mod findings;
mod stale;

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use findings::Findings;

/// Prints every broken rule, then fails if there was one.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut findings = Findings::default();
    dependencies::check(workspace, &mut findings)?;
    stale::check(workspace, &mut findings)?;
    files::check(workspace, &mut findings)?;
    circles::check(workspace, &mut findings)?;
    for warning in &findings.warnings {
        eprintln!("warning: {warning}");
    }
    for error in &findings.errors {
        eprintln!("broken rule: {error}");
    }
    if !findings.errors.is_empty() {
        bail!("{} broken rules", findings.errors.len());
    }
    Ok(())
}
