//! `stacyvm kill`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::json;

use super::global::{Global, OutputFormat};
use super::output;

/// Destroy sandboxes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ids of the sandboxes.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let client = global.client()?;
    let mut destroyed = Vec::new();
    for id in args.ids {
        client
            .destroy(&id)
            .await
            .with_context(|| format!("cannot destroy {id}"))?;
        if global.output == OutputFormat::Table {
            output::line(&format!("Sandbox {id} destroyed"))?;
        }
        destroyed.push(id);
    }
    if global.output == OutputFormat::Json {
        output::json(&json!({ "destroyed": destroyed }))?;
    }
    Ok(ExitCode::SUCCESS)
}
