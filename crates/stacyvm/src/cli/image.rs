//! `stacyvm image`: the images on this machine's disk. Needs no server; a running one sees the
//! change at once.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::{Value, json};
use stacyvm_image::{Image, ImageStore};

use super::{Form, Global, output};
use crate::progress::Progress;
use crate::wiring::directories::Directories;

/// Manage the images of this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make an image from a tar or tar.gz archive of a root file system.
    Import {
        /// The archive, as "docker export" writes it.
        file: PathBuf,
        /// What to call it; the file's own name by default.
        name: Option<String>,
    },
    /// List the images.
    #[command(visible_alias = "ls")]
    List,
    /// Remove images.
    Rm {
        /// Which.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

pub(crate) fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let directories = Directories::of(&global.configuration()?);
    directories.prepare()?;
    let store = ImageStore::open(directories.images()).context("cannot open the images")?;
    match args.action {
        Action::Import { file, name } => import(&store, &file, name.as_deref(), global)?,
        Action::List => list(&store, global)?,
        Action::Rm { names } => remove(&store, &directories, &names, global)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn import(store: &ImageStore, file: &Path, name: Option<&str>, global: &Global) -> Result<()> {
    let length = std::fs::metadata(file).ok().map(|found| found.len());
    let progress = Progress::bytes("Importing", length);
    let mut reported = 0;
    let image = store
        .import(file, name, &mut |state| {
            progress.advance(state.read.saturating_sub(reported));
            reported = state.read;
        })
        .with_context(|| format!("cannot import {}", file.display()))?;
    drop(progress);
    match global.output {
        Form::Json => output::json(&image),
        Form::Table => output::line(&format!(
            "Image {} imported ({} files, {})",
            image.name,
            image.entries,
            size(image.size)
        )),
    }
}

fn list(store: &ImageStore, global: &Global) -> Result<()> {
    let images = store.list().context("cannot list the images")?;
    match global.output {
        Form::Json => output::json(&images),
        Form::Table if images.is_empty() => output::line("No images"),
        Form::Table => {
            let rows: Vec<Vec<String>> = images.iter().map(row).collect();
            output::table(&["NAME", "SIZE", "FILES", "CREATED", "DIGEST"], &rows)
        }
    }
}

fn row(image: &Image) -> Vec<String> {
    vec![
        image.name.clone(),
        size(image.size),
        image.entries.to_string(),
        created(image),
        image.digest.chars().take(19).collect(),
    ]
}

fn created(image: &Image) -> String {
    i64::try_from(image.created)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| "-".to_owned(), |time| time.to_string())
}

fn remove(
    store: &ImageStore,
    directories: &Directories,
    names: &[String],
    global: &Global,
) -> Result<()> {
    for name in names {
        store
            .remove(name, &|image| in_use(directories, name, image.top()))
            .with_context(|| format!("cannot remove the image {name}"))?;
        if global.output == Form::Table {
            output::line(&format!("Image {name} removed"))?;
        }
    }
    if global.output == Form::Json {
        output::json(&json!({ "removed": names }))?;
    }
    Ok(())
}

fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// Whether a sandbox of the server, or of a run, stands on the image's tree.
fn in_use(directories: &Directories, name: &str, rootfs: &Path) -> bool {
    let tree = rootfs
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let mut homes = vec![directories.native.clone()];
    if let Ok(runs) = std::fs::read_dir(directories.runs()) {
        homes.extend(runs.flatten().map(|run| run.path()));
    }
    let boxes = homes
        .iter()
        .filter_map(|home| std::fs::read_dir(home.join("native/boxes")).ok())
        .flat_map(Iterator::flatten);
    boxes
        .filter_map(|found| std::fs::read(found.path().join("meta.json")).ok())
        .filter_map(|text| serde_json::from_slice::<Value>(&text).ok())
        .any(|meta| meta["image"] == name || tree.is_some_and(|tree| meta["image_id"] == tree))
}
