//! A store in a directory of its own, and looking into it.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use stacyvm_image::{Image, ImageError, ImageStore, StoredImage};
use stacyvm_testing::programs_or_skip;
pub(crate) use stacyvm_testing::{is_root as root, skip, wait_until as eventually};
use tempfile::TempDir;

use crate::builder::{TarEntry, tar_of};

pub(crate) struct Fixture {
    pub(crate) place: TempDir,
    pub(crate) store: ImageStore,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("outside")).unwrap();
        fs::write(place.path().join("outside/canary"), "nobody was here").unwrap();
        let store = ImageStore::open(place.path().join("store")).unwrap();
        Self { place, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub(crate) fn archive(&self, bytes: &[u8]) -> PathBuf {
        let path = self.path("archive.tar");
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn import(&self, entries: &[TarEntry<'_>]) -> Result<Image, ImageError> {
        let path = self.archive(&tar_of(entries));
        self.store.import(&path, Some("image"), &mut |_| {})
    }

    /// The path of a file of an image, in the layer that shows it.
    pub(crate) fn file(&self, image: &str, path: &str) -> PathBuf {
        file(&self.store.find(image).unwrap(), path)
    }

    /// What a part of the store has: `layers`, `images`, `names`, `partial`, `making`, `trash`.
    pub(crate) fn part(&self, part: &str) -> Vec<String> {
        part_of(&self.path("store"), part)
    }

    /// Nothing of an image is in the store.
    pub(crate) fn assert_empty(&self) {
        for part in ["layers", "images", "names", "partial", "making", "trash"] {
            assert_eq!(self.part(part), Vec::<String>::new(), "{part}");
        }
        assert_eq!(self.store.list().unwrap(), []);
    }

    pub(crate) fn assert_outside_untouched(&self) {
        let outside = self.path("outside");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        let canary = outside.join("canary");
        assert_eq!(fs::read_to_string(&canary).unwrap(), "nobody was here");
        assert_eq!(fs::metadata(&canary).unwrap().nlink(), 1);
    }
}

/// What a part of a store has.
pub(crate) fn part_of(store: &Path, part: &str) -> Vec<String> {
    let root = match root() {
        true => ".oci",
        false => ".oci-user",
    };
    let mut names: Vec<_> = fs::read_dir(store.join(root).join(part))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The path of a file, in the topmost layer that has something of this name.
pub(crate) fn file(image: &StoredImage, path: &str) -> PathBuf {
    let mut paths = image.layers().iter().map(|layer| layer.join(path));
    let found = paths.find(|path| path.symlink_metadata().is_ok());
    found.unwrap_or_else(|| image.top().join(path))
}

/// Whether a program can be run; says so when it cannot.
pub(crate) fn have(program: &str) -> bool {
    programs_or_skip(&[program])
}

/// An address that refuses every connection as long as the socket lives: it is bound, so that no
/// other program gets it, and does not listen.
pub(crate) fn refusing() -> (OwnedFd, SocketAddr) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    bind(&fd, &any).unwrap();
    let address = SocketAddr::try_from(getsockname(&fd).unwrap()).unwrap();
    (fd, address)
}

/// Runs a script in an overlay of the image's layers, as a sandbox would see it, and gives its
/// output. The mount lives and dies with the script's own namespace. Only as root.
pub(crate) fn inside(image: &StoredImage, script: &str) -> String {
    let place = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for (number, layer) in image.layers().iter().enumerate() {
        // Short names: the options of a mount are one page.
        symlink(layer, place.path().join(number.to_string())).unwrap();
        names.push(number.to_string());
    }
    for directory in ["upper", "work", "root"] {
        fs::create_dir(place.path().join(directory)).unwrap();
    }
    let mount = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir=upper,workdir=work root && cd root && {script}",
        names.join(":")
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &mount])
        .current_dir(place.path())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
