//! `stacyvm network`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use stacyvm_types::{NetworkInfo, NetworkRules};

use super::global::{Global, OutputFormat};
use super::output;

/// Show what a sandbox may reach, or change it while it runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the sandbox.
    id: String,
    /// Allow only servers of this name (*.example.org: those below); may be repeated.
    #[arg(long, value_name = "DOMAIN")]
    allow_domain: Vec<String>,
    /// Allow everything that the operator's rules leave open.
    #[arg(long, conflicts_with_all = ["allow_domain", "deny_all"])]
    allow_all: bool,
    /// Allow no connections to the outside.
    #[arg(long, conflicts_with = "allow_domain")]
    deny_all: bool,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let client = global.client()?;
    let named = !args.allow_domain.is_empty();
    let info = if named || args.allow_all || args.deny_all {
        let rules = NetworkRules {
            mode: None,
            allow_domains: (!args.allow_all).then_some(args.allow_domain),
        };
        let setting = client.set_network(&args.id, &rules);
        setting.await.context("cannot change the network")?
    } else {
        let asking = client.network(&args.id);
        asking.await.context("cannot look at the network")?
    };
    match global.output {
        OutputFormat::Json => output::json(&info)?,
        OutputFormat::Table => output::line(&in_words(&info))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn in_words(info: &NetworkInfo) -> String {
    let mode = &info.mode;
    match &info.allow_domains {
        None => mode.clone(),
        Some(domains) if domains.is_empty() => format!("{mode}, closed"),
        Some(domains) => format!("{mode}, only {}", domains.join(" ")),
    }
}
