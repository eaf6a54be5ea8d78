//! `stacyvm spawn`.

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::global::{Global, OutputFormat};
use super::output;
use super::values::{NameValue, SandboxOptions, map};

/// Make a sandbox.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sandbox: SandboxOptions,
    /// A saved description to start from.
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// A label; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    metadata: Vec<NameValue>,
    /// Who may open its ports in a browser: public, or private for those with a link.
    #[arg(long, value_name = "ACCESS")]
    preview: Option<String>,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let mut request = args.sandbox.into_request();
    request.template = args.template;
    request.metadata = map(args.metadata);
    request.preview = args.preview;
    let sandbox = global
        .client()?
        .spawn(&request)
        .await
        .context("cannot make a sandbox")?;
    match global.output {
        OutputFormat::Json => output::json(&sandbox)?,
        OutputFormat::Table => output::line(&format!(
            "Sandbox {} spawned (provider: {}, image: {})",
            sandbox.id, sandbox.provider, sandbox.image
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}
