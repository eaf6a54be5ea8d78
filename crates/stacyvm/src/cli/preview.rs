//! `stacyvm preview`: links to ports of sandboxes, and the authority that vouches for them on a
//! developer's machine.

mod ca;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;

use super::global::{Global, OutputFormat};
use super::output;
use super::runtime::block_on;

/// Open ports of sandboxes in a browser.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the address of a port, with what opens it when it is private.
    Url {
        /// Id of the sandbox.
        id: String,
        /// Port inside the sandbox.
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        /// How long the link of a private preview opens it, like 30m or 1h30m.
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<String>,
    },
    /// The development authority: what lets browsers of this machine trust previews over TLS.
    #[command(subcommand)]
    Ca(ca::Action),
}

pub(crate) fn run(args: Args, global: &Global) -> Result<ExitCode> {
    match args.action {
        Action::Url {
            id,
            port,
            expires_in,
        } => block_on(url(&id, port, expires_in.as_deref(), global)),
        Action::Ca(action) => ca::run(action, global),
    }
}

async fn url(id: &str, port: u16, expires_in: Option<&str>, global: &Global) -> Result<ExitCode> {
    let client = global.client()?;
    let asking = client.preview_link(id, port, expires_in);
    let link = asking
        .await
        .with_context(|| format!("cannot get a link to port {port} of {id}"))?;
    match global.output {
        OutputFormat::Json => output::json(&link)?,
        OutputFormat::Table => output::line(&link.url)?,
    }
    Ok(ExitCode::SUCCESS)
}
