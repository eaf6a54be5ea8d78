//! The orchestrator of one `stacyvm run`: no server, no address, no trace afterwards.
//!
//! Each lives in `<data>/run/<name>`, whose lock it holds while it lives. A directory there whose
//! lock is free was left by a run that was killed; the next run, or the next server, removes what
//! is in it. The lock of `<data>/run` itself is held while a directory there is made or judged, so
//! that none is taken for abandoned that is not locked yet.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use stacyvm_config::{Loaded, NativeNetwork};
use stacyvm_orchestrator::{Caller, ListFilter, Orchestrator};
use stacyvm_store::Store;

use super::directories::Directories;
use super::docker;
use super::lock::DirectoryLock;
use super::providers::{self, Trial};

/// How long the orchestrator may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The orchestrator of one run.
pub(crate) struct PrivateOrchestrator {
    pub(crate) orchestrator: Orchestrator,
    directory: PathBuf,
    _lock: DirectoryLock,
}

impl PrivateOrchestrator {
    /// Starts it.
    pub(crate) async fn start(loaded: &Loaded) -> Result<Self> {
        let usual = Directories::of(loaded);
        usual.prepare()?;
        sweep(loaded, &usual).await;
        let (own, lock) = claim(&usual)?;
        share_images(&usual, &own)?;
        let started = Self::orchestrator(loaded, &own).await;
        match started {
            Ok(orchestrator) => Ok(Self {
                orchestrator,
                directory: own.data,
                _lock: lock,
            }),
            Err(error) => {
                remove(&own.data);
                Err(error)
            }
        }
    }

    async fn orchestrator(loaded: &Loaded, own: &Directories) -> Result<Orchestrator> {
        let store = Store::in_memory().context("cannot keep records in memory")?;
        let file = loaded.file.as_deref();
        let providers = providers::start(&loaded.config, own, file, Trial::No).await?;
        let settings = super::settings(&loaded.config, &providers.default);
        Orchestrator::start(settings, store, providers.all)
            .await
            .context("cannot start")
    }

    /// Destroys what is left and removes the directory.
    pub(crate) async fn end(self) {
        let caller = Caller::default();
        let left = self
            .orchestrator
            .list(&caller, ListFilter::default())
            .await
            .unwrap_or_default();
        for sandbox in left {
            if let Err(error) = self.orchestrator.destroy(&caller, &sandbox.id).await {
                eprintln!("warning: cannot destroy {}: {error}", sandbox.id);
            }
        }
        self.orchestrator.shutdown(SHUTDOWN_TIMEOUT).await;
        remove(&self.directory);
    }
}

/// A directory for this run alone, locked.
fn claim(usual: &Directories) -> Result<(Directories, DirectoryLock)> {
    let runs = usual.runs();
    let own = usual.private(&runs.join(format!("{}-{}", std::process::id(), stamp())));
    usual.private(&runs).prepare()?;
    let _gate = DirectoryLock::wait(&runs)?;
    own.prepare()?;
    let lock = DirectoryLock::take(&own.data)?;
    Ok((own, lock))
}

/// Removes what runs have left that were killed. Whatever stands in the way is no reason to fail.
pub(crate) async fn sweep(loaded: &Loaded, usual: &Directories) {
    for (directory, _lock) in abandoned(usual) {
        match destroy_left(loaded, &usual.private(&directory)).await {
            Ok(()) => remove(&directory),
            Err(error) => eprintln!(
                "warning: cannot remove what an earlier run left in {}: {}",
                directory.display(),
                crate::failure::in_words(&error)
            ),
        }
    }
}

/// The directories whose run is gone, locked by us.
fn abandoned(usual: &Directories) -> Vec<(PathBuf, DirectoryLock)> {
    let runs = usual.runs();
    let Ok(entries) = std::fs::read_dir(&runs) else {
        return Vec::new();
    };
    let Ok(_gate) = DirectoryLock::wait(&runs) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .filter_map(|path| {
            let lock = DirectoryLock::try_take(&path).ok()??;
            Some((path, lock))
        })
        .collect()
}

async fn destroy_left(loaded: &Loaded, left: &Directories) -> Result<()> {
    let mut providers = Vec::new();
    if left.native.join("native/boxes").exists() {
        // It takes the network over when a sandbox has one, and removes it otherwise.
        let mut config = loaded.config.clone();
        config.providers.native.network = NativeNetwork::None;
        providers.push(providers::native(&config, left, &[]).await?);
    }
    if left.data.join("mock").exists() {
        providers.push(providers::mock(left).await?);
    }
    providers.extend(docker::left(&loaded.config, left)?);
    for provider in providers {
        for found in provider.list().await? {
            provider.destroy(&found.id).await?;
        }
        provider.close().await;
    }
    Ok(())
}

/// The provider looks for images below its own directory; a link leads to the common ones.
fn share_images(usual: &Directories, own: &Directories) -> Result<()> {
    let common = usual.images();
    let here = stacyvm_native::images_dir(&own.native);
    let parent = here.parent().context("the images have no parent")?;
    std::fs::create_dir_all(&common)
        .and_then(|()| std::fs::create_dir_all(parent))
        .and_then(|()| std::os::unix::fs::symlink(&common, &here))
        .context("cannot share the images")
}

fn remove(directory: &Path) {
    let mut removed = std::fs::remove_dir_all(directory);
    if matches!(&removed, Err(error) if error.kind() == ErrorKind::PermissionDenied) {
        // Without root, what a sandbox (or the kernel's overlay) has closed is closed to us too.
        removed = open_up(directory).and_then(|()| std::fs::remove_dir_all(directory));
    }
    if let Err(error) = removed
        && error.kind() != ErrorKind::NotFound
    {
        eprintln!("warning: cannot remove {}: {error}", directory.display());
    }
}

/// Makes every directory below one accessible to its owner. Nothing that could put a link in the
/// way is alive any more.
fn open_up(directory: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700))?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

fn stamp() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos())
}
