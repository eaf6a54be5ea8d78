//! Every box that this provider knows, and which range of ids it has.
//!
//! ```text
//!            reserve            process set           process ended
//!  (nothing) ───────► Partial ─────────────► Running ───────────────► Dead
//!                        │                      │                       │
//!                        └──────────────────────┴── forget ◄────────────┘
//! ```
//! `create` owns the first two arrows, the kernel the third, `destroy` and a failed `create` the
//! last; both hold the box's lock while they work. After a restart the table is read from disk.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use stacyvm_launcher::control::Limits;
use stacyvm_provider::{AgentSandbox, BoxState};
use stacyvm_types::SandboxId;

use crate::cgroups::Cgroups;
use crate::disk::{self, Disk};
use crate::layout::Layout;
use crate::meta;
use crate::network::Lease;
use crate::process::Process;
use crate::slots::Slots;
use crate::watch::Told;

/// One box.
#[derive(Debug)]
pub(crate) struct BoxEntry {
    pub(crate) id: SandboxId,
    pub(crate) dir: PathBuf,
    /// Made by a health check and of no interest to anybody else.
    pub(crate) probe: bool,
    /// Held while the box is made or removed.
    pub(crate) lock: Arc<tokio::sync::Mutex<()>>,
    facts: Mutex<Facts>,
}

/// What is known about a box, growing while it is made.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) slot: Option<u32>,
    pub(crate) process: Option<Arc<Process>>,
    pub(crate) cgroups: Cgroups,
    pub(crate) agent: Option<Arc<AgentSandbox>>,
    /// What it may use.
    pub(crate) limits: Option<Limits>,
    /// What limits its disk, where something does.
    pub(crate) disk: Option<Disk>,
    /// Which of its limits the orchestrator has heard of.
    pub(crate) told: Told,
    pub(crate) host_view: Option<String>,
    pub(crate) network: Option<Lease>,
    /// When the processor time was last looked at, and what it was, in nanoseconds.
    pub(crate) cpu_seen: Option<(Instant, u64)>,
    /// When the disk was last measured, and what was found, in bytes.
    pub(crate) disk_seen: Option<(Instant, u64)>,
}

impl BoxEntry {
    fn new(layout: &Layout, id: SandboxId, probe: bool, facts: Facts) -> Arc<Self> {
        Arc::new(Self {
            dir: layout.box_dir(&id),
            id,
            probe,
            lock: Arc::default(),
            facts: Mutex::new(facts),
        })
    }

    /// What is known about it; the guard must not be kept across an await.
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().expect("no holder of this lock panics")
    }

    /// Its first process, once there is one.
    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        self.facts().process.clone()
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

/// Why a box cannot be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is one of this id.
    Exists,
    /// Every range of ids is taken.
    Full,
}

/// A number that differs between the data directories of a machine. No secret.
fn seed(directory: &std::path::Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    directory.hash(&mut hasher);
    hasher.finish()
}

/// The table of boxes.
#[derive(Debug)]
pub(crate) struct Boxes {
    layout: Layout,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    boxes: HashMap<SandboxId, Arc<BoxEntry>>,
    slots: Slots,
}

impl Boxes {
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
            let facts = read_facts(&layout, &id)?;
            if let Some(slot) = facts.slot {
                table.slots.mark(slot);
            }
            let entry = BoxEntry::new(&layout, id.clone(), false, facts);
            table.boxes.insert(id, entry);
        }
        Ok(Self {
            layout,
            table: Mutex::new(table),
        })
    }

    /// Begins a box: from here on it is known, and its range of ids is taken.
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
        let facts = Facts {
            slot: Some(slot),
            ..Facts::default()
        };
        let entry = BoxEntry::new(&self.layout, id.clone(), probe, facts);
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
            .or_insert_with(|| BoxEntry::new(&self.layout, id.clone(), false, Facts::default()))
            .clone()
    }

    /// Whether this very entry is still the one of its id.
    pub(crate) fn is_current(&self, entry: &Arc<BoxEntry>) -> bool {
        self.get(&entry.id)
            .is_some_and(|current| Arc::ptr_eq(&current, entry))
    }

    /// Ends a box in the table, after nothing of it is left; gives its range back.
    pub(crate) fn forget(&self, entry: &Arc<BoxEntry>) {
        let slot = {
            let mut facts = entry.facts();
            facts.agent = None;
            facts.slot.take()
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
            |entry: &Arc<BoxEntry>| Some((entry.id.clone(), entry.facts().network.clone()?));
        entries.iter().filter_map(lease).collect()
    }

    /// Where a box of this id stands, if it does.
    pub(crate) fn dir_of(&self, id: &SandboxId) -> PathBuf {
        self.layout.box_dir(id)
    }

    /// Names of directories that stand on disk. Blocks.
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
        self.table.lock().expect("no holder of this lock panics")
    }
}

/// What the files of a box say. Without a whole `meta.json` it was never launched, so nothing is
/// looked for but a process to end.
fn read_facts(layout: &Layout, id: &SandboxId) -> io::Result<Facts> {
    let dir = layout.box_dir(id);
    let mut facts = Facts::default();
    let meta = meta::read(&dir, id);
    if let Some(pid_file) = meta::read_pid(&dir) {
        facts.cgroups = pid_file.cgroups;
        if meta.is_ok() {
            let process = Process::adopt(pid_file.pid, pid_file.start_ticks)?;
            facts.process = Some(Arc::new(process.unwrap_or_else(Process::gone)));
        }
    }
    match meta {
        Ok(meta) => {
            facts.slot = Some(meta.slot);
            facts.limits = Some(meta.limits);
            facts.disk = meta.disk;
            let process = facts.process.as_ref().filter(|process| !process.ended());
            let fill = process.and_then(|process| disk::fill(process.pid));
            // What happened before was told by the server before.
            let disk = fill.zip(meta.disk.map(|disk| disk.bytes()));
            facts.told = Told::now(&facts.cgroups, disk);
            facts.host_view = meta.host_view;
            facts.network = meta.network;
        }
        Err(error) => tracing::warn!(sandbox_id = %id, %error, "a half-made sandbox was found"),
    }
    Ok(facts)
}
