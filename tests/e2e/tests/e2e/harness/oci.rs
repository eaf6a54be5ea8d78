//! Images for tests: made of directories, written as `docker save` writes them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::server::finish;

/// Names of busybox that the tests' commands use.
const APPLETS: [&str; 20] = [
    "sh", "cat", "ls", "id", "echo", "pwd", "env", "stat", "touch", "mkdir", "rm", "test", "find",
    "sort", "wc", "printf", "grep", "sleep", "head", "readlink",
];

/// The busybox of this machine. Leaves the test, which is skipped, without it or without root.
macro_rules! need_busybox {
    () => {{
        crate::harness::need_root!();
        match crate::harness::oci::busybox() {
            Some(path) => path,
            None => {
                crate::harness::skip("needs the package busybox-static");
                return;
            }
        }
    }};
}
pub(crate) use need_busybox;

/// The static busybox of the package `busybox-static`.
pub(crate) fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
}

/// An image that is put together.
#[derive(Debug)]
pub(crate) struct Image {
    place: TempDir,
    layers: usize,
    config: Value,
}

impl Image {
    /// One without layers.
    pub(crate) fn empty() -> Self {
        let place = tempfile::Builder::new()
            .prefix("stacyvm-image-")
            .tempdir()
            .unwrap();
        Self {
            place,
            layers: 0,
            config: json!({}),
        }
    }

    /// One with a shell, and a file that says so.
    pub(crate) fn with_shell(busybox: &Path) -> Self {
        Self::empty().layer(|root| {
            fs::create_dir_all(root.join("bin")).unwrap();
            fs::create_dir_all(root.join("etc")).unwrap();
            fs::copy(busybox, root.join("bin/busybox")).unwrap();
            for name in APPLETS {
                symlink("busybox", root.join("bin").join(name)).unwrap();
            }
            fs::write(root.join("etc/motd"), "from an image\n").unwrap();
        })
    }

    /// On top of what there is, what `fill` puts into a directory. Files whose names begin with
    /// `.wh.` are what they are in every layer: marks of what is gone.
    pub(crate) fn layer(mut self, fill: impl FnOnce(&Path)) -> Self {
        let root = self.path(&format!("root-{}", self.layers));
        fs::create_dir(&root).unwrap();
        fill(&root);
        let tar = self.path(&format!("layer-{}.tar", self.layers));
        finish(
            Command::new("tar")
                .args(["--numeric-owner", "--owner=0", "--group=0"])
                .args(["--format=pax", "--xattrs", "--xattrs-include=user.*", "-C"])
                .arg(&root)
                .arg("-cf")
                .arg(&tar)
                .arg("."),
        )
        .ok();
        fs::remove_dir_all(&root).unwrap();
        self.layers += 1;
        self
    }

    /// A layer that is a tar already.
    pub(crate) fn ready_layer(mut self, tar: &Path) -> Self {
        symlink(tar, self.path(&format!("layer-{}.tar", self.layers))).unwrap();
        self.layers += 1;
        self
    }

    /// Sets a key of the image's settings, as Docker spells it: `User`, `Env`, `WorkingDir`.
    pub(crate) fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Writes the archive, named `test:latest` in it.
    pub(crate) fn archive(&self) -> PathBuf {
        let names: Vec<String> = (0..self.layers).map(|n| format!("layer-{n}.tar")).collect();
        let digests: Vec<String> = names.iter().map(|name| digest(&self.path(name))).collect();
        let config = json!({
            "os": "linux",
            "architecture": architecture(),
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        let manifest = json!([{
            "Config": "config.json", "RepoTags": ["test:latest"], "Layers": names,
        }]);
        fs::write(self.path("config.json"), config.to_string()).unwrap();
        fs::write(self.path("manifest.json"), manifest.to_string()).unwrap();
        let archive = self.path("image.tar");
        finish(
            Command::new("tar")
                .arg("-C")
                .arg(self.place.path())
                .arg("-chf")
                .arg(&archive)
                .args(["manifest.json", "config.json"])
                .args(&names),
        )
        .ok();
        archive
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }
}

fn digest(file: &Path) -> String {
    let printed = finish(Command::new("sha256sum").arg(file)).ok();
    let digits = printed.trim_start_matches('\\').split(' ').next().unwrap();
    format!("sha256:{digits}")
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
