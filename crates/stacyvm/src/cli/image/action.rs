//! The actions of `stacyvm image`, and what comes of them, on this machine or on a server.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use stacyvm_types::{ImageDetails, ImageInfo, ImagesRemoved, PulledImage};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Fetch an image from its registry.
    Pull {
        /// Reference of the image, as for Docker: python:3.12, ghcr.io/team/tool@sha256:…
        image: String,
        /// Ask the registry also when the image is there.
        #[arg(long)]
        always: bool,
    },
    /// Take images out of an archive of "docker save" or an OCI layout.
    Load {
        /// The archive, plain or packed.
        file: PathBuf,
        /// Name of the image, where the archive has just one.
        name: Option<String>,
    },
    /// Make an image from a tar or tar.gz archive of a root file system.
    Import {
        /// The archive, as "docker export" writes it.
        file: PathBuf,
        /// Name of the image; the file's own name by default.
        name: Option<String>,
    },
    /// Write images into an archive that "docker load" reads.
    Save {
        /// Names of the images.
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
        /// Name of the image.
        name: String,
    },
    /// Give an image a further name.
    Tag {
        /// Name of the image.
        image: String,
        /// The further name.
        name: String,
    },
    /// Remove images.
    Rm {
        /// Names of the images.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove images whose name went to another one, and what no image needs.
    Prune {
        /// Remove every image that no sandbox uses.
        #[arg(long, short = 'a')]
        all: bool,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
}

/// What an action has done or found, for the one place that prints it.
pub(super) enum Outcome {
    Pulled(PulledImage),
    Loaded(Vec<ImageInfo>, &'static str),
    Saved(PathBuf),
    Listed(Vec<ImageInfo>),
    Inspected(Box<ImageDetails>),
    Tagged { image: String, name: String },
    Removed(Vec<String>, ImagesRemoved),
    Pruned(ImagesRemoved, bool),
}

/// Adds what one removal removed to what others did.
pub(super) fn merge(all: &mut ImagesRemoved, one: ImagesRemoved) {
    all.names.extend(one.names);
    all.images.extend(one.images);
    all.layers.extend(one.layers);
    all.freed += one.freed;
}

/// The name that a file suggests for the root file system in it.
pub(super) fn suggested_name(file: &std::path::Path) -> Result<String> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.context("the file has no name that could be the image's: give one")?;
    let stem = [".tar.gz", ".tgz", ".tar"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(name);
    Ok(stem.to_lowercase())
}
