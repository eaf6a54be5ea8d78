//! `stacyvm logs`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use stacyvm_client::FollowedLog;

use super::global::{Global, OutputFormat};
use super::output;

/// Show what a sandbox printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the sandbox.
    #[arg(value_name = "ID")]
    id: String,
    /// Number of lines to print, the newest last.
    #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    lines: u32,
    /// Go on with what is printed from now on, until the sandbox ends.
    #[arg(long, short = 'f')]
    follow: bool,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<ExitCode> {
    if args.follow {
        return follow(&args, global).await;
    }
    let lines = global
        .client()?
        .logs(&args.id, args.lines as usize)
        .await
        .with_context(|| format!("cannot read the log of {}", args.id))?;
    match global.output {
        OutputFormat::Json => output::json(&lines)?,
        OutputFormat::Table => {
            for line in lines {
                output::line(&line)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn follow(args: &Args, global: &Global) -> Result<ExitCode> {
    let failed = || format!("cannot follow the log of {}", args.id);
    let client = global.client()?;
    let following = client.follow_logs(&args.id, args.lines as usize).await;
    let mut log = following.with_context(failed)?;
    while let Some(told) = log.next().await {
        let told = told.with_context(failed)?;
        match (global.output, &told) {
            (OutputFormat::Json, told) => output::line(&serde_json::to_string(told)?)?,
            (OutputFormat::Table, FollowedLog::Line(line)) => output::line(line)?,
            (OutputFormat::Table, FollowedLog::Skipped(bytes)) => {
                eprintln!("stacyvm: {bytes} bytes of output came too fast and are left out");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
