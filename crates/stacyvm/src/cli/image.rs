//! `stacyvm image`: what sandboxes are made from.
//!
//! Without `--server` (or STACYVM_SERVER) it works on this machine's disk and needs no server; a
//! running one sees the change at once. With it, the server does the work on its own disk.

mod action;
mod display;
mod local;
mod remote;

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::global::{Global, OutputFormat};
use super::output;
use super::runtime::block_on;
use action::{Action, Outcome};
pub(super) use display::PullBars;

/// Manage the images of this machine, or of a server when one is named.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

pub(crate) fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let outcome = match &global.server {
        Some(_) => block_on(remote::run(global.client()?, args.action))?,
        None => local::run(args.action, global)?,
    };
    match global.output {
        OutputFormat::Json => print_json(outcome),
        OutputFormat::Table => print_text(outcome),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn print_json(outcome: Outcome) -> Result<()> {
    match outcome {
        Outcome::Pulled(pulled) => output::json(&pulled),
        Outcome::Loaded(images, _) => output::json(&images),
        Outcome::Saved(to) if to.as_os_str() == "-" => Ok(()),
        Outcome::Saved(to) => output::json(&json!({ "saved": to })),
        Outcome::Listed(images) => output::json(&images),
        Outcome::Inspected(details) => output::json(&details),
        Outcome::Tagged { image, name } => output::json(&json!({ "image": image, "name": name })),
        Outcome::Removed(_, removed) | Outcome::Pruned(removed, _) => output::json(&removed),
    }
}

fn print_text(outcome: Outcome) -> Result<()> {
    match outcome {
        Outcome::Pulled(pulled) => output::line(&display::describe_pull(&pulled)),
        Outcome::Loaded(images, how) => {
            for image in &images {
                output::line(&format!(
                    "Image {} {how} ({})",
                    image.name,
                    display::extent(image)
                ))?;
            }
            Ok(())
        }
        Outcome::Saved(to) if to.as_os_str() == "-" => Ok(()),
        Outcome::Saved(to) => output::line(&format!("Saved to {}", to.display())),
        Outcome::Listed(images) if images.is_empty() => output::line("No images"),
        Outcome::Listed(images) => display::print_table(&images),
        Outcome::Inspected(details) => output::json(&details),
        Outcome::Tagged { image, name } => output::line(&format!("Image {image} is also {name}")),
        Outcome::Removed(names, _) => {
            for name in names {
                output::line(&format!("Image {name} removed"))?;
            }
            Ok(())
        }
        Outcome::Pruned(removed, dry_run) => display::print_pruned(&removed, dry_run),
    }
}
