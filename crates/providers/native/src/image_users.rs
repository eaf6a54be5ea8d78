//! Which images sandboxes use, as the records in their directories say.
//!
//! Sandboxes outlive the servers that made them, and several servers and runs may share one image
//! store; so the answer is read from the disk at the moment of the question. A sandbox that is
//! being made is held by its lease until its directory can be found here.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use stacyvm_image::StoredImage;

use crate::layout::META_FILE;

/// The data directories of all providers that make sandboxes from one image store.
#[derive(Clone, Debug)]
pub struct ImageUsers {
    data_dir: PathBuf,
    runs_dir: Option<PathBuf>,
}

/// The only field that is read of a record, so that records of later versions count as well.
#[derive(Deserialize)]
struct ImageRecord {
    #[serde(default)]
    image_root: Option<PathBuf>,
}

impl ImageUsers {
    /// A provider's data directory, and a directory whose every child is the data directory of a
    /// further provider over the same images.
    pub fn new(data_dir: impl Into<PathBuf>, runs_dir: Option<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            runs_dir,
        }
    }

    /// Whether a sandbox uses the image. Blocks.
    pub fn uses(&self, image: &StoredImage) -> bool {
        let roots = self.roots();
        let real = image.top().canonicalize();
        roots.contains(image.top()) || real.is_ok_and(|real| roots.contains(&real))
    }

    /// Topmost directories of the images that sandboxes use. Blocks.
    pub fn roots(&self) -> HashSet<PathBuf> {
        let mut roots = HashSet::new();
        for directory in self.data_dirs() {
            let Ok(boxes) = std::fs::read_dir(directory.join("native/boxes")) else {
                continue;
            };
            for found in boxes.flatten() {
                let Some(root) = image_root(&found.path()) else {
                    continue;
                };
                // A run reaches the common images through a link of its own.
                roots.extend(root.canonicalize());
                roots.insert(root);
            }
        }
        roots
    }

    fn data_dirs(&self) -> Vec<PathBuf> {
        let mut all = vec![self.data_dir.clone()];
        let runs = self.runs_dir.as_ref().map(std::fs::read_dir);
        if let Some(Ok(runs)) = runs {
            all.extend(runs.flatten().map(|run| run.path()));
        }
        all
    }
}

fn image_root(box_dir: &Path) -> Option<PathBuf> {
    let text = std::fs::read(box_dir.join(META_FILE)).ok()?;
    serde_json::from_slice::<ImageRecord>(&text)
        .ok()?
        .image_root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_of_every_home_count_whatever_their_version() {
        let home = tempfile::tempdir().unwrap();
        let path = |path: &str| home.path().join(path);
        for (directory, text) in [
            (
                "data/native/boxes/sb-00000001",
                r#"{"image_root":"/images/a","version":1}"#,
            ),
            (
                "data/native/boxes/sb-00000002",
                r#"{"image":"host","version":1}"#,
            ),
            ("data/native/boxes/sb-00000003", "{torn"),
            (
                "runs/one/native/boxes/sb-00000004",
                r#"{"image_root":"/images/b","version":99}"#,
            ),
        ] {
            std::fs::create_dir_all(path(directory)).unwrap();
            std::fs::write(path(directory).join(META_FILE), text).unwrap();
        }
        let users = ImageUsers::new(path("data"), Some(path("runs")));
        let roots = users.roots();
        assert_eq!(
            roots,
            HashSet::from([PathBuf::from("/images/a"), PathBuf::from("/images/b")])
        );
        assert!(ImageUsers::new(path("none"), None).roots().is_empty());
    }
}
