//! The directory of one sandbox.
//!
//! ```text
//! <mock>/<id>/pid.json      the agent's process, written before the sandbox is used
//! <mock>/<id>/agent.sock    where the agent listens
//! <mock>/<id>/root/         the sandbox's root directory
//! ```

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{getgid, getuid};
use stacyvm_types::SandboxId;

use crate::process::Identity;

/// The directories that every sandbox begins with, and their modes.
const DIRECTORIES: [(&str, u32); 9] = [
    ("workspace", 0o755),
    ("tmp", 0o1777),
    ("etc", 0o755),
    ("home", 0o755),
    ("home/user", 0o755),
    ("root", 0o700),
    ("opt", 0o755),
    ("var", 0o755),
    ("var/tmp", 0o1777),
];

/// The path of one sandbox's directory, which need not exist.
#[derive(Clone, Debug)]
pub(crate) struct SandboxDirectory(PathBuf);

impl SandboxDirectory {
    /// `parent` is the provider's data directory.
    pub(crate) fn new(parent: &Path, id: &SandboxId) -> Self {
        Self(parent.join(id.as_str()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    pub(crate) fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// Creates the directory for a new sandbox. Fails when it exists.
    pub(crate) fn claim(&self) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&self.0)
    }

    /// Creates the root directory with the files that every sandbox begins with.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let root = self.root();
        DirBuilder::new().mode(0o755).create(&root)?;
        for (name, mode) in DIRECTORIES {
            let path = root.join(name);
            fs::create_dir(&path)?;
            // Set again, because the umask has changed the mode.
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        let mut passwd = format!("user:x:{uid}:{gid}::/home/user:/bin/sh\n");
        let mut group = format!("user:x:{gid}:\n");
        if uid != 0 {
            passwd.push_str("root:x:0:0:root:/root:/bin/sh\n");
        }
        if gid != 0 {
            group.push_str("root:x:0:\n");
        }
        fs::write(root.join("etc/passwd"), passwd)?;
        fs::write(root.join("etc/group"), group)?;
        fs::write(
            root.join("etc/hosts"),
            "127.0.0.1 localhost\n::1 localhost\n",
        )
    }

    /// Writes down the agent's process, atomically.
    pub(crate) fn write_process(&self, process: Identity) -> io::Result<()> {
        let text = serde_json::to_vec(&process).map_err(io::Error::other)?;
        let temporary = self.0.join("pid.json.new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&text)?;
        fs::rename(temporary, self.0.join("pid.json"))
    }

    /// Reads the agent's process; none when it was never written down.
    pub(crate) fn read_process(&self) -> io::Result<Option<Identity>> {
        match fs::read(self.0.join("pid.json")) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the directory and everything in it; success when there is none.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                make_writable(&self.0);
                fs::remove_dir_all(&self.0)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Makes every directory below writable for its owner, because a sandbox may have changed that.
fn make_writable(directory: &Path) {
    let _ = fs::set_permissions(directory, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}
