//! `stacyvm logs`.

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::{Form, Global, output};

/// Show what a sandbox printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which sandbox.
    #[arg(value_name = "ID")]
    id: String,
    /// How many lines, the newest last.
    #[arg(long, short = 'n', default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    lines: u32,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let lines = global
        .client()?
        .logs(&args.id, args.lines as usize)
        .await
        .with_context(|| format!("cannot read the log of {}", args.id))?;
    match global.output {
        Form::Json => output::json(&lines)?,
        Form::Table => {
            for line in lines {
                output::line(&line)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
