//! Where a server keeps its things.
//!
//! ```text
//! <data>/lock            held while a server runs
//! <data>/stacyvm.db      the records (database.path)
//! <data>/bin/            the agent and the launcher, unpacked
//! <data>/native/         the native provider's own; see its layout
//! <data>/preview/        the key of links to previews, certificates, the development authority
//! <data>/run/<name>/     one `stacyvm run`, removed at its end
//! ```

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use stacyvm_config::Loaded;

use crate::failure::WithHint;

/// The directories of one server, or of one `run`.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    /// The data directory of this server or run.
    pub(crate) data: PathBuf,
    /// The parent of the native provider's directory.
    pub(crate) native: PathBuf,
    /// What several servers and runs may share: unpacked programs, views of the host, images.
    pub(crate) shared: PathBuf,
    /// The shared parent of the native provider's directory.
    pub(crate) shared_native: PathBuf,
}

impl Directories {
    /// As configured.
    pub(crate) fn of(loaded: &Loaded) -> Self {
        let data = absolute(&loaded.data_dir(is_root()));
        let native = loaded
            .config
            .providers
            .native
            .data_dir
            .as_deref()
            .map_or_else(|| data.clone(), absolute);
        Self {
            shared: data.clone(),
            shared_native: native.clone(),
            data,
            native,
        }
    }

    /// Everything below one directory.
    pub(crate) fn below(directory: &Path) -> Self {
        Self {
            data: directory.to_owned(),
            native: directory.to_owned(),
            shared: directory.to_owned(),
            shared_native: directory.to_owned(),
        }
    }

    /// A place of its own for one `run`, sharing what may be shared.
    pub(crate) fn private(&self, directory: &Path) -> Self {
        Self {
            data: directory.to_owned(),
            native: directory.to_owned(),
            shared: self.shared.clone(),
            shared_native: self.shared_native.clone(),
        }
    }

    /// Whether they are those of one `run`, which makes one sandbox.
    pub(crate) fn is_private(&self) -> bool {
        self.data != self.shared
    }

    /// Makes them, closed to other users.
    pub(crate) fn prepare(&self) -> Result<()> {
        for directory in [&self.data, &self.native] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .with_context(|| format!("cannot make the directory {}", directory.display()))
                .hint(
                    "make its parent writable, or set server.data_dir (STACYVM_SERVER_DATA_DIR)",
                )?;
        }
        Ok(())
    }

    /// The database: a relative path is inside the data directory.
    pub(crate) fn database(&self, configured: &Path) -> PathBuf {
        self.data.join(configured)
    }

    /// Where images are.
    pub(crate) fn images(&self) -> PathBuf {
        stacyvm_native::images_dir(&self.shared_native)
    }

    /// Where the runs have their directories.
    pub(crate) fn runs(&self) -> PathBuf {
        self.data.join("run")
    }

    /// A short name that no other data directory of this machine has.
    pub(crate) fn instance(&self) -> String {
        let path = self.native.canonicalize();
        let path = path.as_deref().unwrap_or(&self.native);
        Sha256::digest(path.as_os_str().as_encoded_bytes())
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
