//! The table of boxes of one provider: what each has, and its range of user ids.
//!
//! ```text
//!            reserve            process set           process ended
//!  (nothing) ───────► Partial ─────────────► Running ───────────────► Dead
//!                        │                      │                       │
//!                        └──────────────────────┴── forget ◄────────────┘
//! ```
//! `create` owns the first two arrows, the kernel the third, the removal of a box the last. Both
//! operations hold the box's lock while they work. After a restart the table is read from disk.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use stacyvm_launcher::control::Limits;
use stacyvm_provider::{AgentSandbox, BoxState};
use stacyvm_types::SandboxId;

use crate::cgroups::Cgroups;
use crate::disk::{self, Disk};
use crate::layout::Layout;
use crate::meta;
use crate::network::Lease;
use crate::process::Process;
use crate::reported_limits::ReportedLimits;
use crate::slots::Slots;

/// One box.
#[derive(Debug)]
pub(crate) struct BoxEntry {
    pub(crate) id: SandboxId,
    pub(crate) dir: PathBuf,
    /// Whether a health check made it; such a box is in no list.
    pub(crate) probe: bool,
    /// Held while the box is made or removed.
    pub(crate) lock: Arc<tokio::sync::Mutex<()>>,
    resources: Mutex<BoxResources>,
}

/// What a box has: a removal finds all that it must undo here.
#[derive(Debug, Default)]
pub(crate) struct BoxResources {
    /// The number of its range of user ids.
    pub(crate) slot: Option<u32>,
    pub(crate) process: Option<Arc<Process>>,
    pub(crate) cgroups: Cgroups,
    pub(crate) agent: Option<Arc<AgentSandbox>>,
    /// Limits of what it may use.
    pub(crate) limits: Option<Limits>,
    /// What limits its disk, where something does.
    pub(crate) disk: Option<Disk>,
    /// Which of its limits have been reached and reported.
    pub(crate) reported_limits: ReportedLimits,
    /// The generation of the host view that it uses, for the image `host`.
    pub(crate) host_view: Option<String>,
    pub(crate) network: Option<Lease>,
    /// When the processor time was last measured, and what it was, in nanoseconds.
    pub(crate) cpu_sample: Option<(Instant, u64)>,
    /// When the disk was last measured, and what was found, in bytes.
    pub(crate) disk_sample: Option<(Instant, u64)>,
}

impl BoxEntry {
    fn new(layout: &Layout, id: SandboxId, probe: bool, resources: BoxResources) -> Arc<Self> {
        Arc::new(Self {
            dir: layout.box_dir(&id),
            id,
            probe,
            lock: Arc::default(),
            resources: Mutex::new(resources),
        })
    }

    /// What it has.
    pub(crate) fn resources(&self) -> MutexGuard<'_, BoxResources> {
        self.resources.lock()
    }

    /// Its first process, once there is one.
    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        self.resources().process.clone()
    }

    /// What it is doing.
    pub(crate) fn state(&self) -> BoxState {
        match self.process() {
            None => BoxState::Partial,
            Some(process) if process.ended() => BoxState::Dead,
            Some(_) => BoxState::Running,
        }
    }
}

/// Why an id cannot be reserved for a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is a box with this id.
    Exists,
    /// Every range of ids is taken.
    Full,
}

/// A number that differs between the data directories of a machine; it need not be secret.
fn seed(directory: &std::path::Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    directory.hash(&mut hasher);
    hasher.finish()
}

/// The table of boxes.
#[derive(Debug)]
pub(crate) struct BoxTable {
    layout: Layout,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    boxes: HashMap<SandboxId, Arc<BoxEntry>>,
    slots: Slots,
}

impl BoxTable {
    /// Reads what an earlier server left. Blocks; must run inside the async runtime.
    pub(crate) fn adopt(layout: Layout) -> io::Result<Self> {
        let mut table = Table {
            boxes: HashMap::new(),
            slots: Slots::new(seed(&layout.boxes)),
        };
        for entry in std::fs::read_dir(&layout.boxes)? {
            let name = entry?.file_name();
            let Some(id) = name
                .to_str()
                .and_then(|name| name.parse::<SandboxId>().ok())
            else {
                tracing::warn!(
                    "something that is no sandbox stands among the sandboxes' directories"
                );
                continue;
            };
            let resources = read_resources(&layout, &id)?;
            if let Some(slot) = resources.slot {
                table.slots.mark(slot);
            }
            let entry = BoxEntry::new(&layout, id.clone(), false, resources);
            table.boxes.insert(id, entry);
        }
        Ok(Self {
            layout,
            table: Mutex::new(table),
        })
    }

    /// Adds a box to the table and takes a range of user ids for it.
    pub(crate) fn reserve(
        &self,
        id: &SandboxId,
        probe: bool,
    ) -> Result<(Arc<BoxEntry>, u32), Refusal> {
        let mut table = self.table();
        if table.boxes.contains_key(id) {
            return Err(Refusal::Exists);
        }
        let slot = table.slots.take().ok_or(Refusal::Full)?;
        let resources = BoxResources {
            slot: Some(slot),
            ..BoxResources::default()
        };
        let entry = BoxEntry::new(&self.layout, id.clone(), probe, resources);
        table.boxes.insert(id.clone(), entry.clone());
        Ok((entry, slot))
    }

    /// The box of this id.
    pub(crate) fn get(&self, id: &SandboxId) -> Option<Arc<BoxEntry>> {
        self.table().boxes.get(id).cloned()
    }

    /// The box of this id; a bare entry for one that only the disk or the kernel may know.
    pub(crate) fn get_or_bare(&self, id: &SandboxId) -> Arc<BoxEntry> {
        self.table()
            .boxes
            .entry(id.clone())
            .or_insert_with(|| {
                BoxEntry::new(&self.layout, id.clone(), false, BoxResources::default())
            })
            .clone()
    }

    /// Whether this very entry is still the one of its id.
    pub(crate) fn is_current(&self, entry: &Arc<BoxEntry>) -> bool {
        self.get(&entry.id)
            .is_some_and(|current| Arc::ptr_eq(&current, entry))
    }

    /// Removes a box from the table, after nothing of it is left, and frees its range.
    pub(crate) fn forget(&self, entry: &Arc<BoxEntry>) {
        let slot = {
            let mut resources = entry.resources();
            resources.agent = None;
            resources.slot.take()
        };
        let mut table = self.table();
        table.boxes.remove(&entry.id);
        if let Some(slot) = slot {
            table.slots.free(slot);
        }
    }

    /// Every box, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<BoxEntry>> {
        self.table().boxes.values().cloned().collect()
    }

    /// The networks that boxes have.
    pub(crate) fn leases(&self) -> Vec<(SandboxId, Lease)> {
        let entries = self.all();
        let lease =
            |entry: &Arc<BoxEntry>| Some((entry.id.clone(), entry.resources().network.clone()?));
        entries.iter().filter_map(lease).collect()
    }

    /// Generations of the views of the host that boxes use.
    pub(crate) fn host_views(&self) -> BTreeSet<String> {
        let entries = self.all();
        let view = |entry: &Arc<BoxEntry>| entry.resources().host_view.clone();
        entries.iter().filter_map(view).collect()
    }

    /// The directory of a box with this id, whether it exists or not.
    pub(crate) fn dir_of(&self, id: &SandboxId) -> PathBuf {
        self.layout.box_dir(id)
    }

    /// Ids that have a directory on disk. Blocks.
    pub(crate) fn on_disk(&self) -> io::Result<BTreeSet<SandboxId>> {
        let mut ids = BTreeSet::new();
        for entry in std::fs::read_dir(&self.layout.boxes)? {
            if let Some(id) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            {
                ids.insert(id);
            }
        }
        Ok(ids)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }
}

/// Reads what a box has from its files. Without a complete `meta.json` it was never launched, so
/// only the cgroups of a process that must be ended are read.
fn read_resources(layout: &Layout, id: &SandboxId) -> io::Result<BoxResources> {
    let dir = layout.box_dir(id);
    let mut resources = BoxResources::default();
    let meta = meta::read(&dir, id);
    if let Some(pid_file) = meta::read_pid(&dir) {
        resources.cgroups = pid_file.cgroups;
        if meta.is_ok() {
            let process = Process::adopt(pid_file.pid, pid_file.start_ticks)?;
            resources.process = Some(Arc::new(process.unwrap_or_else(Process::gone)));
        }
    }
    match meta {
        Ok(meta) => {
            resources.slot = Some(meta.slot);
            resources.limits = Some(meta.limits);
            resources.disk = meta.disk;
            let process = resources
                .process
                .as_ref()
                .filter(|process| !process.ended());
            let fill = process.and_then(|process| disk::fill(process.pid));
            // The previous server has reported the limits that were reached while it ran.
            let disk = fill.zip(meta.disk.map(|disk| disk.bytes()));
            resources.reported_limits = ReportedLimits::current(&resources.cgroups, disk);
            resources.host_view = meta.host_view;
            resources.network = meta.network;
        }
        Err(error) => tracing::warn!(sandbox_id = %id, %error, "a half-made sandbox was found"),
    }
    Ok(resources)
}
