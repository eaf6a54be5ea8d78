//! `stacyvm version`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::global::{Global, OutputFormat};
use super::output;
use crate::embedded::Program;

pub(crate) fn run(global: &Global) -> Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let agent = Program::Agent.describe();
    match global.output {
        OutputFormat::Table => output::line(&format!("stacyvm {version} (agent {agent})"))?,
        OutputFormat::Json => output::json(&json!({
            "version": version,
            "agent": agent,
            "launcher": Program::Launcher.describe(),
        }))?,
    }
    Ok(ExitCode::SUCCESS)
}
