//! `stacyvm image`: what sandboxes are made from.
//!
//! Without `--server` (or STACYVM_SERVER) it works on this machine's disk and needs no server; a
//! running one sees the change at once. With it, the server does the work on its own disk.

mod local;
mod remote;
mod shown;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::json;
use stacyvm_types::{ImageInfo, ImagesRemoved};

use super::{Form, Global, output};
pub(super) use shown::PullBars;

/// Manage the images of this machine, or of a server when one is named.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fetch an image from its registry.
    Pull {
        /// As for Docker: python:3.12, ghcr.io/team/tool@sha256:…
        image: String,
        /// Ask the registry also when the image is there.
        #[arg(long)]
        always: bool,
    },
    /// Take images out of an archive of "docker save" or an OCI layout.
    Load {
        /// The archive, plain or packed.
        file: PathBuf,
        /// What to call it, where the archive has one image.
        name: Option<String>,
    },
    /// Make an image from a tar or tar.gz archive of a root file system.
    Import {
        /// The archive, as "docker export" writes it.
        file: PathBuf,
        /// What to call it; the file's own name by default.
        name: Option<String>,
    },
    /// Write images into an archive that "docker load" reads.
    Save {
        /// Which.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// The file to write; "-" is standard output.
        #[arg(long, short = 'o', value_name = "FILE")]
        to: PathBuf,
    },
    /// List the images.
    #[command(visible_alias = "ls")]
    List,
    /// Show all about an image, as JSON.
    Inspect {
        /// Which.
        name: String,
    },
    /// Give an image a further name.
    Tag {
        /// Which.
        image: String,
        /// The name.
        name: String,
    },
    /// Remove images.
    Rm {
        /// Which.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove images whose name went to another one, and what no image needs.
    Prune {
        /// Every image that no sandbox uses.
        #[arg(long, short = 'a')]
        all: bool,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
}

/// What is done and what is found, for the one place that prints it.
enum Done {
    Pulled(stacyvm_types::PulledImage),
    Loaded(Vec<ImageInfo>, &'static str),
    Saved(PathBuf),
    Listed(Vec<ImageInfo>),
    Inspected(Box<stacyvm_types::ImageDetails>),
    Tagged { image: String, name: String },
    Removed(Vec<String>, ImagesRemoved),
    Pruned(ImagesRemoved, bool),
}

pub(crate) fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let done = match &global.server {
        Some(_) => super::block_on(remote::run(global.client()?, args.action))?,
        None => local::run(args.action, global)?,
    };
    match global.output {
        Form::Json => in_json(done),
        Form::Table => in_words(done),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn in_json(done: Done) -> Result<()> {
    match done {
        Done::Pulled(pulled) => output::json(&pulled),
        Done::Loaded(images, _) => output::json(&images),
        Done::Saved(to) if to.as_os_str() == "-" => Ok(()),
        Done::Saved(to) => output::json(&json!({ "saved": to })),
        Done::Listed(images) => output::json(&images),
        Done::Inspected(details) => output::json(&details),
        Done::Tagged { image, name } => output::json(&json!({ "image": image, "name": name })),
        Done::Removed(_, removed) | Done::Pruned(removed, _) => output::json(&removed),
    }
}

fn in_words(done: Done) -> Result<()> {
    match done {
        Done::Pulled(pulled) => output::line(&shown::pulled(&pulled)),
        Done::Loaded(images, how) => {
            for image in &images {
                output::line(&format!(
                    "Image {} {how} ({})",
                    image.name,
                    shown::extent(image)
                ))?;
            }
            Ok(())
        }
        Done::Saved(to) if to.as_os_str() == "-" => Ok(()),
        Done::Saved(to) => output::line(&format!("Saved to {}", to.display())),
        Done::Listed(images) if images.is_empty() => output::line("No images"),
        Done::Listed(images) => shown::table(&images),
        Done::Inspected(details) => output::json(&details),
        Done::Tagged { image, name } => output::line(&format!("Image {image} is also {name}")),
        Done::Removed(names, _) => {
            for name in names {
                output::line(&format!("Image {name} removed"))?;
            }
            Ok(())
        }
        Done::Pruned(removed, dry_run) => shown::pruned(&removed, dry_run),
    }
}

/// Adds what one removal removed to that of others.
fn add(all: &mut ImagesRemoved, one: ImagesRemoved) {
    all.names.extend(one.names);
    all.images.extend(one.images);
    all.layers.extend(one.layers);
    all.freed += one.freed;
}

/// The name that a file suggests for the root file system in it.
fn suggested(file: &std::path::Path) -> Result<String> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.context("the file has no name that could be the image's: give one")?;
    let stem = [".tar.gz", ".tgz", ".tar"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(name);
    Ok(stem.to_lowercase())
}
