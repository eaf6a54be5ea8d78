//! The directories and file names of the native provider; their content belongs to other files.
//!
//! ```text
//! <data>/native/lock                 held while a provider runs
//! <data>/native/boxes/<id>/          one sandbox: meta.json, pid.json, agent.sock, its layers
//! <data>/native/trash/<id>.<n>       destroyed, waiting to be deleted
//! <data>/native/host-view/<digest>/  lowest layer of the image `host`
//! <data>/native/images/              the image store
//! <data>/native/incoming/            archives on their way into it
//! ```

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use stacyvm_types::SandboxId;

/// The agent's listening socket, inside a box directory.
pub(crate) const AGENT_SOCKET: &str = "agent.sock";
/// The record of a box, written before the launch.
pub(crate) const META_FILE: &str = "meta.json";
/// The record of its process, written by the launcher before the sandbox may run.
pub(crate) const PID_FILE: &str = "pid.json";

/// The directories of one provider.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// `<data>/native`.
    pub(crate) root: PathBuf,
    /// One directory for each sandbox.
    pub(crate) boxes: PathBuf,
    /// Directories that wait to be deleted.
    pub(crate) trash: PathBuf,
    /// Generated views of the host.
    pub(crate) host_views: PathBuf,
    /// Archives that are being loaded into the image store.
    pub(crate) incoming: PathBuf,
}

impl Layout {
    /// Makes the directories, with access for the server's user alone.
    pub(crate) fn prepare(data_dir: &Path, host_view_dir: Option<&Path>) -> io::Result<Self> {
        private_dir(data_dir)?;
        let root = data_dir.canonicalize()?.join("native");
        let layout = Self {
            boxes: root.join("boxes"),
            trash: root.join("trash"),
            incoming: root.join("incoming"),
            host_views: host_view_dir.map_or_else(|| root.join("host-view"), Path::to_owned),
            root,
        };
        for path in [
            &layout.root,
            &layout.boxes,
            &layout.trash,
            &layout.host_views,
            &layout.incoming,
        ] {
            private_dir(path)?;
        }
        // A directory that was there before may be open; what is inside must not be.
        std::fs::set_permissions(&layout.root, std::fs::Permissions::from_mode(0o700))?;
        Ok(layout)
    }

    /// The directory of one sandbox.
    pub(crate) fn box_dir(&self, id: &SandboxId) -> PathBuf {
        self.boxes.join(id.as_str())
    }
}

/// Makes a directory with mode 0700, and its parents; one that exists is left as it is.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}
