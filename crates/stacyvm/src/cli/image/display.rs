//! Images and pulls as text for people.

use std::collections::HashMap;
use std::io::IsTerminal;

use anyhow::Result;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use stacyvm_types::{ImageInfo, ImagesRemoved, PullLine, PullStage, PulledImage};

use crate::cli::output;

/// How many digits of a digest are shown: enough to tell two apart.
const SHORT_DIGEST: usize = 12;

/// Prints images as a table.
pub(super) fn print_table(images: &[ImageInfo]) -> Result<()> {
    let rows: Vec<Vec<String>> = images.iter().map(row).collect();
    let heading = ["NAME", "SIZE", "LAYERS", "PLATFORM", "CREATED", "ID"];
    output::table(&heading, &rows)
}

fn row(image: &ImageInfo) -> Vec<String> {
    vec![
        image.name.clone(),
        HumanBytes(image.size).to_string(),
        image.layers.to_string(),
        image.platform.clone(),
        image.created.to_string(),
        short(&image.id).to_owned(),
    ]
}

/// How many files an image has, and how large it is.
pub(super) fn extent(image: &ImageInfo) -> String {
    format!("{} files, {}", image.entries, HumanBytes(image.size))
}

/// One line about a finished pull.
pub(super) fn describe_pull(pulled: &PulledImage) -> String {
    let image = &pulled.image;
    if pulled.cached {
        return format!("Image {} is here already", image.name);
    }
    let downloaded = HumanBytes(pulled.downloaded);
    format!(
        "Image {} pulled ({}, {downloaded} downloaded)",
        image.name,
        extent(image)
    )
}

/// Prints what was removed, or would be.
pub(super) fn print_pruned(removed: &ImagesRemoved, dry_run: bool) -> Result<()> {
    let what = if dry_run {
        "would be removed"
    } else {
        "removed"
    };
    for name in &removed.names {
        output::line(&format!("Image {name} {what}"))?;
    }
    let (images, layers) = (removed.images.len(), removed.layers.len());
    let freed = HumanBytes(removed.freed);
    output::line(&format!(
        "{images} images and {layers} layers {what}, {freed}"
    ))
}

/// A digest without its kind, cut.
fn short(digest: &str) -> &str {
    let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
    digits.get(..SHORT_DIGEST).unwrap_or(digits)
}

/// How far a pull is, on standard error: a bar a layer on a terminal, else a line a layer.
pub(in crate::cli) struct PullBars {
    bars: Option<MultiProgress>,
    layers: HashMap<String, ProgressBar>,
}

impl PullBars {
    pub(in crate::cli) fn new() -> Self {
        let bars = std::io::stderr().is_terminal();
        Self {
            bars: bars.then(MultiProgress::new),
            layers: HashMap::new(),
        }
    }

    pub(in crate::cli) fn update(&mut self, line: &PullLine) {
        match (line, &self.bars) {
            (PullLine::Resolved { layers, bytes, .. }, None) => {
                eprintln!("{layers} layers, {}", HumanBytes(*bytes));
            }
            (
                PullLine::Layer {
                    digest,
                    size,
                    stage,
                    done,
                },
                Some(bars),
            ) => {
                let bar = self.layers.entry(digest.clone()).or_insert_with(|| {
                    let bar = bars.add(ProgressBar::new(*size));
                    let style = "{prefix} {msg:12} {bar:30} {bytes}/{total_bytes}";
                    bar.set_style(
                        ProgressStyle::with_template(style).expect("a constant template"),
                    );
                    bar.set_prefix(short(digest).to_owned());
                    bar
                });
                bar.set_message(stage_name(*stage));
                bar.set_position(*done);
            }
            (PullLine::Layer { digest, stage, .. }, None)
                if matches!(
                    stage,
                    PullStage::Done | PullStage::Cached | PullStage::Retrying
                ) =>
            {
                eprintln!("layer {}: {}", short(digest), stage_name(*stage));
            }
            _ => {}
        }
    }
}

impl Drop for PullBars {
    fn drop(&mut self) {
        if let Some(bars) = &self.bars {
            // Nothing is to be done about a terminal that is gone.
            let _ = bars.clear();
        }
    }
}

const fn stage_name(stage: PullStage) -> &'static str {
    match stage {
        PullStage::Cached => "here already",
        PullStage::Waiting => "waiting",
        PullStage::Downloading => "downloading",
        PullStage::Retrying => "trying again",
        PullStage::Unpacking => "unpacking",
        PullStage::Done => "done",
    }
}
