//! Every living sandbox in memory: its facts, the view that its task last published, and the
//! channel to its task. Lookups and admission are O(1); the lock is never held long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use stacyvm_provider::SandboxOps;
use stacyvm_types::{OwnerId, Sandbox, SandboxId, SandboxState, Timestamp};
use tokio::sync::{Notify, OnceCell, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::facts::SandboxFacts;
use crate::health::ProviderSlot;
use crate::lifecycle::Phase;
use crate::sandbox::command::Command;

/// Inputs that may wait for the detached commands of one sandbox at once.
const FEEDING: usize = 8;

/// The state of a sandbox as its task last published it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    pub(crate) expires_at: Timestamp,
    pub(crate) destroy_failed: bool,
}

/// One living sandbox.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) facts: SandboxFacts,
    /// None when its provider is not configured any more.
    pub(crate) slot: Option<Arc<ProviderSlot>>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Cancelled when its destruction begins.
    pub(crate) ended: CancellationToken,
    /// Inputs on their way to detached commands: each may be as long as a request and wait as long
    /// as a command does not read.
    pub(crate) feeding: Semaphore,
    /// Opened when first needed.
    pub(crate) ops: OnceCell<Arc<dyn SandboxOps>>,
    /// The limit that ended its workload, once that is known.
    pub(crate) ended_of: OnceLock<&'static str>,
    /// Whether nothing in it moves now.
    paused: watch::Sender<bool>,
    /// How often its provider has reported, unasked, that it was paused or goes on.
    generation: AtomicU64,
    view: Mutex<View>,
}

impl Entry {
    pub(crate) fn new(
        facts: SandboxFacts,
        slot: Option<Arc<ProviderSlot>>,
        commands: mpsc::Sender<Command>,
        view: View,
    ) -> Self {
        Self {
            facts,
            slot,
            commands,
            ended: CancellationToken::new(),
            feeding: Semaphore::new(FEEDING),
            ops: OnceCell::new(),
            ended_of: OnceLock::new(),
            paused: watch::Sender::new(view.phase == Phase::Paused),
            generation: AtomicU64::new(0),
            view: Mutex::new(view),
        }
    }

    pub(crate) fn view(&self) -> View {
        *self.lock_view()
    }

    /// Only its owner task changes the view.
    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        let mut view = self.lock_view();
        change(&mut view);
        let paused = view.phase == Phase::Paused;
        let differs = |was: &mut bool| std::mem::replace(was, paused) != paused;
        self.paused.send_if_modified(differs);
    }

    /// Resolves when nothing in it moves.
    pub(crate) async fn paused(&self) {
        // Never closed: the sender is ours.
        let _ = self.paused.subscribe().wait_for(|paused| *paused).await;
    }

    /// The number of reports so far; what was observed before the newest one is out of date.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Counts one more report, before the sandbox's task is told of it.
    pub(crate) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Why nothing runs in it any more, in words.
    pub(crate) fn end_in_words(&self) -> String {
        let ended = "what ran in it has ended";
        match self.ended_of.get() {
            Some(limit) => format!("{ended}, its {limit} limit was reached"),
            None => ended.to_owned(),
        }
    }

    fn lock_view(&self) -> MutexGuard<'_, View> {
        self.view.lock()
    }

    pub(crate) fn state(&self) -> Option<SandboxState> {
        let view = self.view();
        view.phase.public(view.destroy_failed)
    }

    /// As the API shows it; none when clients see nothing of it any more.
    pub(crate) fn public(&self, preview_domain: &str) -> Option<Sandbox> {
        let view = self.view();
        let facts = &self.facts;
        Some(Sandbox {
            id: facts.id.clone(),
            state: view.phase.public(view.destroy_failed)?,
            provider: facts.provider.clone(),
            image: facts.image.clone(),
            memory_mb: facts.memory_mb,
            vcpus: facts.vcpus,
            disk_mb: facts.disk_mb,
            owner_id: facts.owner.clone(),
            vm_id: None,
            template: facts.template.clone(),
            isolation: facts.isolation,
            created_at: facts.created_at,
            expires_at: view.expires_at,
            metadata: facts.metadata.clone(),
            preview_domain: preview_domain.to_owned(),
            preview: facts.preview,
        })
    }
}

/// How many there are and may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) all: u64,
    pub(crate) of_owner: u64,
}

/// Why a sandbox is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    All,
    OfOwner,
    /// The id is in use; another one must be drawn.
    IdInUse,
}

/// The table of all living sandboxes, with a count for each owner.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Entries>,
    /// Notified when a sandbox has been removed from the table.
    pub(crate) freed: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    entries: HashMap<SandboxId, Arc<Entry>>,
    of_owner: HashMap<OwnerId, u64>,
}

impl Registry {
    pub(crate) fn get(&self, id: &SandboxId) -> Option<Arc<Entry>> {
        self.lock().entries.get(id).cloned()
    }

    /// Counts and inserts in one step, so that limits hold under any concurrency. A limit of 0
    /// is none.
    pub(crate) fn admit(
        &self,
        entry: &Arc<Entry>,
        max: u64,
        max_of_owner: u64,
    ) -> Result<(), Full> {
        let mut inner = self.lock();
        if inner.entries.contains_key(&entry.facts.id) {
            return Err(Full::IdInUse);
        }
        let counts = inner.counts(entry.facts.owner.as_ref());
        if max != 0 && counts.all >= max {
            return Err(Full::All);
        }
        if max_of_owner != 0 && entry.facts.owner.is_some() && counts.of_owner >= max_of_owner {
            return Err(Full::OfOwner);
        }
        if let Some(owner) = &entry.facts.owner {
            *inner.of_owner.entry(owner.clone()).or_default() += 1;
        }
        let id = entry.facts.id.clone();
        inner.entries.insert(id, Arc::clone(entry));
        Ok(())
    }

    pub(crate) fn remove(&self, id: &SandboxId) {
        let mut inner = self.lock();
        let Some(entry) = inner.entries.remove(id) else {
            return;
        };
        if let Some(owner) = &entry.facts.owner
            && let Some(count) = inner.of_owner.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                inner.of_owner.remove(owner);
            }
        }
        drop(inner);
        self.freed.notify_one();
    }

    pub(crate) fn counts(&self, owner: Option<&OwnerId>) -> Counts {
        self.lock().counts(owner)
    }

    /// All sandboxes at this moment, in no order.
    pub(crate) fn snapshot(&self) -> Vec<Arc<Entry>> {
        self.lock().entries.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Maps and counts are changed together without anything in between that could panic.
        self.inner.lock()
    }
}

impl Entries {
    fn counts(&self, owner: Option<&OwnerId>) -> Counts {
        Counts {
            all: self.entries.len() as u64,
            of_owner: owner
                .and_then(|owner| self.of_owner.get(owner))
                .copied()
                .unwrap_or(0),
        }
    }
}
