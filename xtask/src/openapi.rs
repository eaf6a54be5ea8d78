//! The description of the API that is checked in. A test of the server compares it with the code
//! and can write it; this only runs that test, built as all others are.

use anyhow::{Context, Result};

use crate::tools::run as run_program;
use crate::workspace::Workspace;

const TEST: &str = "openapi::the_checked_in_description_is_that_of_the_code";

/// What to do about a description that is not what the code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stale {
    /// Write it anew.
    Update,
    /// Fail, and say where it differs.
    Fail,
}

/// Compares `openapi/stacyvm.json` with the code.
pub(crate) fn run(workspace: &Workspace, stale: Stale) -> Result<()> {
    // The whole workspace, so that cargo chooses the same features as for all tests.
    let mut command = workspace.cargo(&["test", "--locked", "--quiet", "--workspace"]);
    command.args(["--test", "api", "--", "--exact", TEST]);
    // What is to be read are the differences, not where the test noticed them.
    command.env("RUST_BACKTRACE", "0");
    match stale {
        Stale::Update => command.env("STACYVM_UPDATE_OPENAPI", "1"),
        Stale::Fail => command.env_remove("STACYVM_UPDATE_OPENAPI"),
    };
    run_program(&mut command).context(match stale {
        Stale::Update => "write openapi/stacyvm.json",
        Stale::Fail => "openapi/stacyvm.json is stale: run `cargo xtask openapi` and commit it",
    })
}
