//! Several layers seen as one file system, as overlayfs would show them; never through a link.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use stacyvm_sys::resolve::open_beneath;

use crate::overlay::{OverlayAttributes, is_whiteout};

/// The roots of some layers, the topmost first.
#[derive(Debug)]
pub(crate) struct MergedLayers {
    roots: Vec<OwnedFd>,
    overlay: OverlayAttributes,
}

/// What a layer has at a path.
#[derive(Debug)]
pub(crate) struct MergedEntry {
    /// The number of the layer that has it, from the top.
    pub(crate) layer: usize,
    /// The directory that has it, in that layer.
    pub(crate) parent: OwnedFd,
    pub(crate) stat: Stat,
}

impl MergedEntry {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

impl MergedLayers {
    /// Opens the layers, the topmost first.
    pub(crate) fn open(layers: &[PathBuf], overlay: OverlayAttributes) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let roots = layers
            .iter()
            .map(|layer| rustix::fs::openat(CWD, layer, flags, Mode::empty()))
            .collect::<Result<_, _>>()?;
        Ok(Self { roots, overlay })
    }

    /// What the topmost layer that has it shows at `path`, seen from the root; nothing when a part on
    /// the way to it is no directory.
    pub(crate) fn topmost(&self, path: &Path) -> Result<Option<MergedEntry>, Errno> {
        Ok(self.entries(path)?.into_iter().next())
    }

    /// What the layers show at `path`, the topmost first: one entry for a file, for a directory one
    /// of each layer that is merged into it.
    pub(crate) fn entries(&self, path: &Path) -> Result<Vec<MergedEntry>, Errno> {
        let mut here: Vec<(usize, OwnedFd)> = Vec::new();
        for (number, root) in self.roots.iter().enumerate() {
            here.push((number, root.try_clone().map_err(|_| Errno::MFILE)?));
        }
        let mut names = path.iter().peekable();
        while let Some(name) = names.next() {
            let last = names.peek().is_none();
            let mut found = Vec::new();
            let mut inner = Vec::new();
            for (layer, parent) in here {
                let Some((stat, directory, opaque)) = self.entry(&parent, name)? else {
                    continue;
                };
                let hidden = is_whiteout(&stat);
                let covered = directory.is_none() && !(found.is_empty() && inner.is_empty());
                if hidden || covered {
                    break;
                }
                let ends = directory.is_none() || opaque;
                match (last, directory) {
                    (true, _) => found.push(MergedEntry {
                        layer,
                        parent,
                        stat,
                    }),
                    (false, Some(directory)) => inner.push((layer, directory)),
                    (false, None) => {}
                }
                if ends {
                    break;
                }
            }
            if last {
                return Ok(found);
            }
            here = inner;
        }
        Ok(Vec::new())
    }

    /// What one layer has under a name; of a directory also its descriptor and whether it is opaque.
    fn entry(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
    ) -> Result<Option<(Stat, Option<OwnedFd>, bool)>, Errno> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(Some((stat, None, false)));
        }
        let directory = open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let opaque = self.overlay.is_opaque(&directory);
        Ok(Some((stat, Some(directory), opaque)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::overlay::make_whiteout;
    use std::fs;

    #[test]
    fn layers_look_like_one_tree() {
        let place = tempfile::tempdir().unwrap();
        let overlay = OverlayAttributes::of(place.path()).unwrap();
        let layer = |name: &str, files: &[&str]| {
            let root = place.path().join(name);
            fs::create_dir(&root).unwrap();
            for file in files {
                let path = root.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, name).unwrap();
            }
            root
        };
        let top = layer("top", &["etc/new", "replaced/x", "file"]);
        let middle = layer("middle", &["etc/hosts", "opaque/own", "file/inner"]);
        let bottom = layer(
            "bottom",
            &[
                "etc/hosts",
                "etc/gone",
                "opaque/hidden",
                "replaced",
                "tree/a",
                "file/deep",
            ],
        );
        let open = |path: &Path| -> OwnedFd { fs::File::open(path).unwrap().into() };
        make_whiteout(&open(&top.join("etc")), "gone").unwrap();
        make_whiteout(&open(&middle), "tree").unwrap();
        overlay.set_opaque(&open(&middle), "opaque").unwrap();
        std::os::unix::fs::symlink("/etc", bottom.join("link")).unwrap();
        let merged = MergedLayers::open(&[top, middle, bottom], overlay).unwrap();
        let layers = |path: &str| -> Vec<usize> {
            let found = merged.entries(Path::new(path)).unwrap();
            found.iter().map(|found| found.layer).collect()
        };
        for (path, expected) in [
            ("etc", &[0, 1, 2][..]),
            ("etc/new", &[0]),
            ("etc/hosts", &[1]),
            ("etc/gone", &[]),
            ("opaque", &[1]),
            ("opaque/own", &[1]),
            ("opaque/hidden", &[]),
            ("replaced", &[0]),
            ("replaced/x", &[0]),
            ("tree", &[]),
            ("tree/a", &[]),
            ("file", &[0]),
            ("file/inner", &[]),
            ("link", &[2]),
            ("link/hosts", &[]),
            ("none", &[]),
        ] {
            assert_eq!(layers(path), expected, "{path}");
        }
    }
}
