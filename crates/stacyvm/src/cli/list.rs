//! `stacyvm list`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use stacyvm_types::{Sandbox, SandboxState};

use super::global::{Global, OutputFormat};
use super::output;

/// List the sandboxes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only sandboxes in this state.
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<SandboxState>,
    /// Only sandboxes of this owner.
    #[arg(long, value_name = "ID")]
    owner: Option<String>,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let mut sandboxes = global
        .client()?
        .list()
        .await
        .context("cannot list the sandboxes")?;
    sandboxes.retain(|sandbox| {
        let owner = sandbox.owner_id.as_ref().map(|owner| owner.as_str());
        args.state.is_none_or(|state| sandbox.state == state)
            && args
                .owner
                .as_deref()
                .is_none_or(|wanted| owner == Some(wanted))
    });
    match global.output {
        OutputFormat::Json => output::json(&sandboxes)?,
        OutputFormat::Table if sandboxes.is_empty() => output::line("No active sandboxes")?,
        OutputFormat::Table => {
            let rows: Vec<Vec<String>> = sandboxes.iter().map(row).collect();
            output::table(
                &["ID", "STATE", "PROVIDER", "IMAGE", "CREATED", "EXPIRES"],
                &rows,
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(sandbox: &Sandbox) -> Vec<String> {
    vec![
        sandbox.id.to_string(),
        sandbox.state.to_string(),
        sandbox.provider.clone(),
        sandbox.image.clone(),
        sandbox.created_at.to_string(),
        sandbox.expires_at.to_string(),
    ]
}

fn state(text: &str) -> Result<SandboxState, String> {
    text.parse().map_err(|()| {
        let states: Vec<&str> = SandboxState::ALL
            .iter()
            .map(|state| state.as_str())
            .collect();
        format!("the states are {}", states.join(", "))
    })
}
