//! The removal of a box: of one that lives, of a half-made one, and of one that only the kernel or
//! the disk still has.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use stacyvm_provider::ProviderError;
use stacyvm_types::SandboxId;

use crate::boxes::{BoxEntry, BoxTable};
use crate::cgroups;
use crate::disk::{self, Disks, HeldBy};
use crate::meta;
use crate::network::NetworkSupport;
use crate::process::Process;
use crate::trash::Trash;

/// How long a killed process may take to end. A longer time means that it is stuck in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// From this many bytes on the end of a disk waits noticeably for the kernel to write them.
const MIN_DISCARDED: u64 = 8 << 20;

/// Removes boxes, with all that they have.
#[derive(Debug)]
pub(crate) struct BoxRemover {
    pub(crate) boxes: Arc<BoxTable>,
    pub(crate) disks: Arc<Disks>,
    pub(crate) trash: Arc<Trash>,
    pub(crate) network: Arc<NetworkSupport>,
    pub(crate) cgroup_parent: Arc<str>,
}

impl BoxRemover {
    /// Removes the box with this id, also one that the table does not have. Success when there is
    /// none.
    pub(crate) async fn remove_id(self: &Arc<Self>, id: &SandboxId) -> Result<(), ProviderError> {
        let entry = self.boxes.get_or_bare(id);
        let _lock = entry.lock.lock().await;
        if self.boxes.is_current(&entry) {
            self.remove(&entry).await
        } else {
            Ok(())
        }
    }

    /// Removes a sandbox whose caller went away before it was ready.
    pub(crate) async fn remove_unclaimed(self: &Arc<Self>, entry: &Arc<BoxEntry>) {
        let _lock = entry.lock.lock().await;
        if !self.boxes.is_current(entry) {
            return;
        }
        if let Err(error) = self.remove(entry).await {
            tracing::error!(sandbox_id = %entry.id, %error, "a sandbox whose caller went away could not be removed");
        }
    }

    /// Ends a box and removes everything of it. The caller holds its lock. On a failure the box
    /// stays in the table, and another call tries again.
    pub(crate) async fn remove(
        self: &Arc<Self>,
        entry: &Arc<BoxEntry>,
    ) -> Result<(), ProviderError> {
        let process = match entry.process() {
            Some(process) => Some(process),
            None => find_process(entry)?,
        };
        if let Some(process) = process {
            end(entry, &process).await?;
        }
        if let Some(network) = self.network.existing() {
            network.unregister(&entry.id).await;
        }
        let (remover, removed) = (self.clone(), entry.clone());
        tokio::task::spawn_blocking(move || remover.remove_leftovers(&removed))
            .await
            .map_err(|error| ProviderError::backend("remove the sandbox", "", error))??;
        self.boxes.forget(entry);
        Ok(())
    }

    /// Removes the network and the cgroups, then the directory: as long as the directory exists, a
    /// later server finds a removal that was broken off. Blocks.
    fn remove_leftovers(&self, entry: &BoxEntry) -> Result<(), ProviderError> {
        let lease = entry.resources().network.take();
        if let (Some(lease), Some(network)) = (lease, self.network.existing()) {
            network.release(&lease);
        }
        let mut groups = entry.resources().cgroups.clone();
        if groups.is_empty() {
            groups = cgroups::possible(cgroups::parents(None, &self.cgroup_parent), &entry.id);
        }
        stacyvm_sys::cgroup::remove(&groups, KILL_TIMEOUT)
            .map_err(|error| failed("remove the sandbox's cgroups", error.into()))?;
        self.trash
            .take(&entry.dir)
            .map_err(|error| failed("remove the sandbox's directory", error))?;
        if let Some(disk) = entry.resources().disk.take() {
            self.disks.release(disk);
        }
        Ok(())
    }
}

/// Kills the first process, and with it all others, and waits for its end.
async fn end(entry: &Arc<BoxEntry>, process: &Process) -> Result<(), ProviderError> {
    const STEP: &str = "end the sandbox's processes";
    discard_writes(entry, process).await;
    process.kill().map_err(|error| failed(STEP, error))?;
    tokio::time::timeout(KILL_TIMEOUT, process.wait())
        .await
        .map_err(|_| failed(STEP, io::ErrorKind::TimedOut.into()))
}

/// Discards what the box has written and the kernel has not yet, so that the end of its disk does
/// not wait for it. A failure costs only time.
async fn discard_writes(entry: &Arc<BoxEntry>, process: &Process) {
    let number = match entry.resources().disk {
        Some(disk) => match disk.held_by {
            HeldBy::Loop(number) => number,
            HeldBy::Project(_) => return,
        },
        None => return,
    };
    let (dir, pid) = (entry.dir.clone(), process.pid);
    let work = move || {
        if disk::fill(pid).is_some_and(|fill| fill.used_bytes >= MIN_DISCARDED) {
            disk::shut_down(&dir, number)
        } else {
            Ok(())
        }
    };
    if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
        tracing::debug!(sandbox_id = %entry.id, %error, "a disk could not be given up");
    }
}

/// The first process of a box whose launch was never answered: the launcher may have written its
/// file before.
fn find_process(entry: &BoxEntry) -> Result<Option<Arc<Process>>, ProviderError> {
    let Some(found) = meta::read_pid(&entry.dir) else {
        return Ok(None);
    };
    let process = Process::adopt(found.pid, found.start_ticks)
        .map_err(|error| failed("find the sandbox's process", error))?;
    let mut resources = entry.resources();
    if resources.cgroups.is_empty() {
        resources.cgroups = found.cgroups;
    }
    Ok(process.map(Arc::new))
}

fn failed(step: &'static str, error: io::Error) -> ProviderError {
    ProviderError::backend(step, error.kind().to_string(), error)
}
