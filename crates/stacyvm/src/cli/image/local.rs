//! The images on this machine's disk, without a server.

use std::path::Path;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use stacyvm_image::{ImageStore, PruneOptions, PullPolicy, Reference};
use stacyvm_native::{ImageUsers, ProgressThrottle, details_of, line_of, removed_of};
use stacyvm_types::{ImagesRemoved, PulledImage};

use super::action::{Action, Outcome, merge};
use super::display::PullBars;
use crate::cli::global::Global;
use crate::failure::WithHint;
use crate::progress::Progress;
use crate::wiring::directories::Directories;
use crate::wiring::providers::pull_options;

pub(super) fn run(action: Action, global: &Global) -> Result<Outcome> {
    let loaded = global.configuration()?;
    let directories = Directories::of(&loaded);
    directories.prepare()?;
    let store = ImageStore::open(directories.images()).context("cannot open the images")?;
    let users = ImageUsers::new(&directories.native, Some(directories.runs()));
    Ok(match action {
        Action::Pull { image, always } => {
            let mut options = pull_options(&loaded.config)?;
            if always {
                options.policy = PullPolicy::Always;
            }
            let (throttle, bars) = (ProgressThrottle::default(), Mutex::new(PullBars::new()));
            let reference = Reference::parse(&image)?;
            let pulled = store.pull(&reference, &options, &|progress| {
                if let Some(line) = throttle.line(progress) {
                    bars.lock().update(&line);
                }
            });
            let pulled = pulled.with_context(|| format!("cannot pull {image}"))?;
            Outcome::Pulled(PulledImage {
                image: line_of(pulled.image),
                cached: pulled.cached,
                downloaded: pulled.downloaded,
            })
        }
        Action::Load { file, name } => {
            let images = with_progress("Loading", &file, |progress| {
                store.load(&file, name.as_deref(), progress)
            });
            let images = images.with_context(|| format!("cannot load {}", file.display()))?;
            Outcome::Loaded(images.into_iter().map(line_of).collect(), "loaded")
        }
        Action::Import { file, name } => {
            let image = with_progress("Importing", &file, |progress| {
                store.import(&file, name.as_deref(), progress)
            });
            let image = image.with_context(|| format!("cannot import {}", file.display()))?;
            Outcome::Loaded(vec![line_of(image)], "imported")
        }
        Action::Save { names, to } => {
            let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
            let saved = if to.as_os_str() == "-" {
                store.save_to(&wanted, &mut std::io::stdout().lock())
            } else {
                store.save(&wanted, &to)
            };
            saved.context("cannot save")?;
            Outcome::Saved(to)
        }
        Action::List => {
            let images = store.list().context("cannot list the images")?;
            Outcome::Listed(images.into_iter().map(line_of).collect())
        }
        Action::Inspect { name } => {
            let details = store.inspect(&name).context("cannot look at the image")?;
            Outcome::Inspected(Box::new(details_of(details)))
        }
        Action::Tag { image, name } => {
            store.tag(&image, &name).context("cannot name the image")?;
            Outcome::Tagged { image, name }
        }
        Action::Rm { names } => {
            let mut removed = ImagesRemoved::default();
            for name in &names {
                let one = store
                    .remove(name, &|image| users.uses(image))
                    .with_context(|| format!("cannot remove the image {name}"));
                let one = match one {
                    Ok(one) => one,
                    Err(error) if is_in_use(&error) => {
                        return Err(error).hint(
                            "\"stacyvm list\" shows the sandboxes, \"stacyvm kill ID\" ends one",
                        );
                    }
                    Err(error) => return Err(error),
                };
                merge(&mut removed, removed_of(one));
            }
            Outcome::Removed(names, removed)
        }
        Action::Prune { all, dry_run } => {
            let options = PruneOptions { all, dry_run };
            let removed = store
                .prune(&options, &|image| users.uses(image))
                .context("cannot remove images")?;
            Outcome::Pruned(removed_of(removed), dry_run)
        }
    })
}

fn is_in_use(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref())
        .any(|cause| matches!(cause, stacyvm_image::ImageError::InUse(_)))
}

/// Shows how much of the file is read.
fn with_progress<T>(
    what: &str,
    file: &Path,
    work: impl FnOnce(&mut dyn FnMut(stacyvm_image::Progress)) -> T,
) -> T {
    let length = std::fs::metadata(file).ok().map(|found| found.len());
    let bar = Progress::bytes(what, length);
    let mut reported = 0;
    work(&mut |state| {
        bar.advance(state.read.saturating_sub(reported));
        reported = state.read.max(reported);
    })
}
