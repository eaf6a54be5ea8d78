//! The progress of a pull: the engine's lines in the form of the API.

use std::collections::HashMap;

use bollard::models::CreateImageInfo;
use stacyvm_types::{PullLine, PullStage};

/// How many layers of one image are tracked; lines about further ones are dropped.
const MAX_LAYERS: usize = 1000;

/// The state of every layer so far.
#[derive(Debug, Default)]
pub(super) struct PullProgress {
    layers: HashMap<String, Layer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layer {
    stage: PullStage,
    size: u64,
    done: u64,
    /// Bytes that were downloaded.
    downloaded: u64,
}

impl PullProgress {
    /// Takes one line of the engine's answer; returns what changed by it.
    pub(super) fn update(&mut self, line: &CreateImageInfo) -> Option<PullLine> {
        let status = line.status.as_deref()?;
        if let Some(digest) = status.strip_prefix("Digest: ") {
            return Some(PullLine::Resolved {
                digest: digest.to_owned(),
                layers: self.layers.len() as u64,
                bytes: self.layers.values().map(|layer| layer.size).sum(),
            });
        }
        let id = line.id.as_deref()?;
        let stage = match status {
            "Already exists" => PullStage::Cached,
            "Pulling fs layer" | "Waiting" => PullStage::Waiting,
            "Downloading" => PullStage::Downloading,
            "Verifying Checksum" | "Download complete" | "Extracting" => PullStage::Unpacking,
            "Pull complete" => PullStage::Done,
            other if other.starts_with("Retrying in") => PullStage::Retrying,
            // "Pulling from …" names the repository, which is no layer.
            _ => return None,
        };
        if self.layers.len() >= MAX_LAYERS && !self.layers.contains_key(id) {
            return None;
        }
        let counted = line.progress_detail.as_ref();
        let number = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        let current = counted.and_then(|counted| number(counted.current));
        let total = counted.and_then(|counted| number(counted.total));
        let before = self.layers.get(id).copied();
        let size = total.unwrap_or(0).max(before.map_or(0, |layer| layer.size));
        let downloaded = match stage {
            PullStage::Downloading => current.unwrap_or(0),
            // A small layer may be complete before the first line about its download.
            PullStage::Unpacking | PullStage::Done => size,
            _ => 0,
        };
        let layer = Layer {
            stage,
            size,
            done: match stage {
                PullStage::Done | PullStage::Cached => size,
                _ => current.unwrap_or(0),
            },
            downloaded: downloaded.max(before.map_or(0, |layer| layer.downloaded)),
        };
        self.layers.insert(id.to_owned(), layer);
        (before != Some(layer)).then(|| PullLine::Layer {
            digest: id.to_owned(),
            size,
            stage,
            done: layer.done,
        })
    }

    /// How many bytes were downloaded.
    pub(super) fn downloaded(&self) -> u64 {
        self.layers.values().map(|layer| layer.downloaded).sum()
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    fn line(id: &str, status: &str, current: i64, total: i64) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(ProgressDetail {
                current: (total > 0).then_some(current),
                total: (total > 0).then_some(total),
            }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn a_layer_goes_from_stage_to_stage() {
        let mut progress = PullProgress::default();
        assert_eq!(
            progress.update(&line("latest", "Pulling from library/x", 0, 0)),
            None
        );
        let mut stages = Vec::new();
        for said in [
            line("a1", "Pulling fs layer", 0, 0),
            line("b2", "Already exists", 0, 0),
            line("a1", "Downloading", 10, 100),
            line("a1", "Downloading", 10, 100),
            line("a1", "Downloading", 100, 100),
            line("a1", "Download complete", 0, 0),
            line("a1", "Extracting", 50, 100),
            line("a1", "Pull complete", 0, 0),
        ] {
            if let Some(PullLine::Layer {
                stage, size, done, ..
            }) = progress.update(&said)
            {
                stages.push((stage, size, done));
            }
        }
        assert_eq!(
            stages,
            [
                (PullStage::Waiting, 0, 0),
                (PullStage::Cached, 0, 0),
                (PullStage::Downloading, 100, 10),
                (PullStage::Downloading, 100, 100),
                (PullStage::Unpacking, 100, 0),
                (PullStage::Unpacking, 100, 50),
                (PullStage::Done, 100, 100),
            ]
        );
        assert_eq!(progress.downloaded(), 100);
        let resolved = progress.update(&CreateImageInfo {
            status: Some("Digest: sha256:ab".to_owned()),
            ..CreateImageInfo::default()
        });
        let expected = PullLine::Resolved {
            digest: "sha256:ab".to_owned(),
            layers: 2,
            bytes: 100,
        };
        assert_eq!(resolved, Some(expected));
    }
}
