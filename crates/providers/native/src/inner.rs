//! What all operations of one provider share, and the removal of a box, which several of them
//! need: of a live one, of a half-made one, and of one that only the kernel still knows.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stacyvm_launcher::control::IoLimits;
use stacyvm_provider::{BoxInfo, BoxState, Egress, Notices, ProviderError};
use stacyvm_types::SandboxId;

use crate::boxes::{BoxEntry, Boxes};
use crate::cgroups;
use crate::disk::{self, Disks, HeldBy};
use crate::image_ops::Shelf;
use crate::images::Images;
use crate::launcher::Launchers;
use crate::meta;
use crate::network::Network;
use crate::ports::Ports;
use crate::process::Process;
use crate::trash::Trash;

/// How long a killed process may take to end. Longer means that it is stuck in the kernel.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// What the kernel writes down in no time when a disk goes.
const MUCH_WRITTEN: u64 = 8 << 20;

/// One provider's parts.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) boxes: Boxes,
    pub(crate) disks: Disks,
    pub(crate) images: Images,
    pub(crate) shelf: Shelf,
    pub(crate) launchers: Launchers,
    pub(crate) trash: Trash,
    pub(crate) cgroup_parent: String,
    /// How fast each box may read and write.
    pub(crate) io: Option<IoLimits>,
    /// Why boxes cannot be limited in that, where it is wanted.
    pub(crate) io_degraded: Option<String>,
    pub(crate) degraded: Mutex<Vec<String>>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) network: Network,
    /// Sockets inside, where this process may make them.
    pub(crate) ports: Option<Ports>,
}

impl Inner {
    /// What the last launch could not have.
    pub(crate) fn set_degraded(&self, mut found: Vec<String>) {
        found.extend(self.disks.degraded());
        found.extend(self.io_degraded.clone());
        let mut degraded = self.degraded.lock().expect("no holder of this lock panics");
        if *degraded != found {
            for sentence in &found {
                tracing::warn!(detail = %sentence, "sandboxes have less than they could");
            }
            *degraded = found;
        }
    }

    /// Ends a box and removes everything of it. The caller holds its lock. When it fails, the box
    /// stays in the table and calling again tries again.
    pub(crate) async fn remove(
        self: &Arc<Self>,
        entry: &Arc<BoxEntry>,
    ) -> Result<(), ProviderError> {
        let process = match entry.process() {
            Some(process) => Some(process),
            None => find_process(entry)?,
        };
        if let Some(process) = process {
            self.give_disk_up(entry, &process).await;
            process
                .kill()
                .map_err(|error| failed("end the sandbox's processes", error))?;
            if tokio::time::timeout(DEATH_LIMIT, process.wait())
                .await
                .is_err()
            {
                return Err(failed(
                    "end the sandbox's processes",
                    io::ErrorKind::TimedOut.into(),
                ));
            }
        }
        if let Some(bridge) = &self.network.bridge {
            bridge.dismiss(&entry.id).await;
        }
        let (inner, subject) = (self.clone(), entry.clone());
        tokio::task::spawn_blocking(move || inner.remove_leftovers(&subject))
            .await
            .map_err(|error| ProviderError::backend("remove the sandbox", "", error))??;
        self.boxes.forget(entry);
        Ok(())
    }

    /// Changes what a box reaches. The caller holds its lock.
    pub(crate) async fn set_egress(
        self: &Arc<Self>,
        entry: &Arc<BoxEntry>,
        egress: &Egress,
    ) -> Result<(), ProviderError> {
        let lease = entry.facts().network.clone();
        let (Some(mut lease), Some(bridge)) = (lease, self.network.bridge.clone()) else {
            return Err(ProviderError::Unsupported(format!(
                "sandbox {} has no network",
                entry.id
            )));
        };
        if !bridge.has_names() {
            return Err(ProviderError::Unsupported(
                "provider native lacks the capability egress-domains".to_owned(),
            ));
        }
        lease.set_egress(egress);
        let (subject, recorded) = (entry.clone(), lease.clone());
        // First the record: after a crash the next server does what stands there.
        tokio::task::spawn_blocking(move || {
            let mut meta = meta::read(&subject.dir, &subject.id)?;
            meta.network = Some(recorded);
            meta::write(&subject.dir, &meta)
        })
        .await
        .map_err(|error| ProviderError::backend("record what a sandbox reaches", "", error))?
        .map_err(|error| failed("record what a sandbox reaches", error))?;
        entry.facts().network = Some(lease.clone());
        bridge.admit(&entry.id, &lease).await?;
        tokio::task::spawn_blocking(move || bridge.apply_to(&lease))
            .await
            .map_err(|error| {
                ProviderError::backend("change what a sandbox reaches", "", error)
            })??;
        Ok(())
    }

    /// Sees to it that the end does not wait for what the box has written. Nothing is lost but time
    /// when it fails.
    async fn give_disk_up(&self, entry: &Arc<BoxEntry>, process: &Process) {
        let number = match entry.facts().disk {
            Some(disk) => match disk.held_by {
                HeldBy::Loop(number) => number,
                HeldBy::Project(_) => return,
            },
            None => return,
        };
        let (dir, pid) = (entry.dir.clone(), process.pid);
        let work = move || {
            let much = disk::fill(pid).is_some_and(|fill| fill.used_bytes >= MUCH_WRITTEN);
            if much {
                disk::give_up(&dir, number)
            } else {
                Ok(())
            }
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
            tracing::debug!(sandbox_id = %entry.id, %error, "a disk could not be given up");
        }
    }

    /// Network and control groups, then the directory: while the directory stands, a crash here is
    /// seen.
    fn remove_leftovers(&self, entry: &BoxEntry) -> Result<(), ProviderError> {
        let lease = entry.facts().network.take();
        if let (Some(lease), Some(bridge)) = (lease, &self.network.bridge) {
            bridge.release(&lease);
        }
        let mut groups = entry.facts().cgroups.clone();
        if groups.is_empty() {
            groups = cgroups::possible(cgroups::parents(None, &self.cgroup_parent), &entry.id);
        }
        stacyvm_sys::cgroup::remove(&groups, DEATH_LIMIT)
            .map_err(|error| failed("remove the sandbox's cgroups", error.into()))?;
        self.trash
            .take(&entry.dir)
            .map_err(|error| failed("remove the sandbox's directory", error))?;
        if let Some(disk) = entry.facts().disk.take() {
            self.disks.release(disk);
        }
        Ok(())
    }

    /// Every box that the table, the disk or the kernel knows. Blocks.
    pub(crate) fn list(&self) -> Result<Vec<BoxInfo>, ProviderError> {
        let entries = self.boxes.all();
        let mut strangers = self
            .boxes
            .on_disk()
            .map_err(|error| failed("list the sandboxes", error))?;
        strangers.append(&mut cgroups::sandboxes(&self.cgroup_parents(&entries)));
        let mut found = Vec::with_capacity(entries.len());
        for entry in entries {
            strangers.remove(&entry.id);
            if !entry.probe {
                found.push(BoxInfo {
                    id: entry.id.clone(),
                    state: entry.state(),
                });
            }
        }
        // One that has been made or removed since the table was read is no stranger.
        let partial = |id: SandboxId| {
            self.stranger(&id).then_some(BoxInfo {
                id,
                state: BoxState::Partial,
            })
        };
        found.extend(strangers.into_iter().filter_map(partial));
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// Whether something of this box stands, and the table does not know it. Blocks.
    fn stranger(&self, id: &SandboxId) -> bool {
        let known = || self.boxes.get(id).is_some();
        let stands = || {
            self.boxes.dir_of(id).is_dir()
                || self
                    .cgroup_parents(&[])
                    .iter()
                    .any(|parent| parent.join(id.as_str()).is_dir())
        };
        !known() && stands() && !known()
    }

    fn cgroup_parents(&self, entries: &[Arc<BoxEntry>]) -> BTreeSet<PathBuf> {
        // Every launcher puts all sandboxes below the same parents, so one box is as good as all.
        let known = entries
            .iter()
            .map(|entry| entry.facts().cgroups.clone())
            .find(|cgroups| !cgroups.is_empty());
        cgroups::parents(known.as_ref(), &self.cgroup_parent)
    }

    /// Views of the host that sandboxes stand on.
    pub(crate) fn views_in_use(&self) -> BTreeSet<String> {
        let mut views = BTreeSet::new();
        for entry in self.boxes.all() {
            views.extend(entry.facts().host_view.clone());
        }
        views
    }
}

/// The first process of a box whose launch was never answered; the launcher may have got as far
/// as to write its file.
fn find_process(entry: &BoxEntry) -> Result<Option<Arc<Process>>, ProviderError> {
    let Some(found) = meta::read_pid(&entry.dir) else {
        return Ok(None);
    };
    let process = Process::adopt(found.pid, found.start_ticks)
        .map_err(|error| failed("find the sandbox's process", error))?;
    let mut facts = entry.facts();
    if facts.cgroups.is_empty() {
        facts.cgroups = found.cgroups;
    }
    Ok(process.map(Arc::new))
}

fn failed(step: &'static str, error: io::Error) -> ProviderError {
    ProviderError::backend(step, error.kind().to_string(), error)
}
