//! Comparing what the store says with what the backends have: at start, and on a schedule.
//!
//! Its one rule is an order: what should be running is noted *before* a backend is asked, and
//! what a backend has is looked up *after*. A box that is being created right now has its entry
//! before the backend knows of it, so it is never taken for an orphan, and one that came up
//! while the backend was answering is never taken for lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use stacyvm_provider::BoxState;
use stacyvm_store::{SandboxRecord, StoredState};
use stacyvm_types::{EventData, EventType, OwnerId, SandboxId};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::health::ProviderSlot;
use crate::lifecycle::{Observed, Phase};
use crate::registry::{Entry, Facts, View};
use crate::sandbox::{Command, Owner, QUEUE};
use crate::shared::Shared;

/// How long a backend may take to list its boxes.
const LIST: Duration = Duration::from_secs(20);
/// How long the removal of an orphan may take before it is left to the next pass.
const ORPHAN: Duration = Duration::from_secs(30);

type Boxes = HashMap<SandboxId, BoxState>;

/// Takes over every sandbox of the store, before anything else runs.
pub(crate) async fn recover(shared: &Arc<Shared>, records: Vec<SandboxRecord>) {
    let lists = shared
        .providers
        .iter()
        .map(|(name, slot)| async move { (name.clone(), list(slot).await) });
    let lists: HashMap<String, Option<Boxes>> = join_all(lists).await.into_iter().collect();
    for record in records {
        adopt(shared, record, &lists);
    }
    for (name, boxes) in &lists {
        if let (Some(slot), Some(boxes)) = (shared.providers.get(name), boxes) {
            remove_orphans(shared, slot, boxes);
        }
    }
}

fn adopt(shared: &Arc<Shared>, record: SandboxRecord, lists: &HashMap<String, Option<Boxes>>) {
    let boxes = lists.get(&record.provider).and_then(Option::as_ref);
    let observed = boxes.map(|boxes| observe(boxes, &record.id));
    let phase = Phase::recovered(record.state, observed);
    let view = View {
        phase,
        expires_at: record.expires_at,
        destroy_failed: false,
    };
    let stored = record.state;
    let action = match (stored, phase) {
        (StoredState::Creating, _) => Some("creation_undone"),
        (StoredState::Destroying, _) => Some("destruction_resumed"),
        (StoredState::Running, Phase::Stopped | Phase::Lost) => Some("end_noticed"),
        _ => None,
    };
    if let Some(action) = action {
        let owner = record.owner.as_ref();
        tell(shared, action, &record.id, owner, &record.provider);
    }
    let slot = shared.providers.get(&record.provider).cloned();
    let facts = Facts {
        id: record.id,
        provider: record.provider,
        image: record.image,
        memory_mb: record.memory_mb,
        vcpus: record.vcpus,
        disk_mb: record.disk_mb,
        owner: record.owner,
        template: record.template,
        isolation: record.isolation,
        created_at: record.created_at,
        metadata: record.metadata,
        preview: record.preview,
    };
    let (sender, commands) = mpsc::channel(QUEUE);
    let entry = Arc::new(Entry::new(facts, slot, sender, view));
    let id = entry.facts.id.clone();
    if shared.registry.admit(&entry, 0, 0).is_err() {
        return;
    }
    if phase == Phase::Destroying {
        entry.ended.cancel();
    } else {
        shared.expiry.schedule(&id, record.expires_at);
    }
    tracing::info!(sandbox = %id, ?phase, ?stored, "sandbox recovered");
    let owner = Owner::recovered(Arc::clone(shared), entry, commands, observed.is_some());
    shared.tasks.spawn(owner.run_recovered(stored));
}

/// Compares at every interval, until the orchestrator stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(shared.settings.reconcile_interval) => {}
        }
        let passes = shared.providers.values().map(|slot| pass(&shared, slot));
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = join_all(passes) => {}
        }
        let now = shared.clock.now();
        if let Err(error) = shared.store.prune_idempotency(now).await {
            tracing::warn!(%error, "expired idempotency keys could not be dropped");
        }
    }
}

/// Compares whenever the provider has recovered, until the orchestrator stops: what happened to its
/// boxes while it could not be asked is known at once.
pub(crate) async fn after_recoveries(shared: Arc<Shared>, slot: Arc<ProviderSlot>) {
    let mut recoveries = slot.recoveries();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            recovered = recoveries.changed() => if recovered.is_err() { return },
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = pass(&shared, &slot) => {}
        }
    }
}

async fn pass(shared: &Arc<Shared>, slot: &Arc<ProviderSlot>) {
    let _one_at_a_time = slot.comparing.lock().await;
    let name = slot.provider.name();
    let mut alive = shared.registry.snapshot();
    alive.retain(|entry| entry.facts.provider == name && entry.view().phase.is_alive());
    let alive: Vec<_> = alive
        .into_iter()
        .map(|entry| (entry.news(), entry))
        .collect();
    let Some(boxes) = list(slot).await else {
        return;
    };
    for (as_of, entry) in alive {
        let observed = observe(&boxes, &entry.facts.id);
        if observed.is_end() {
            act(shared);
            let facts = &entry.facts;
            tell(shared, "end_noticed", &facts.id, facts.owner.as_ref(), name);
        }
        // An owner with a full queue is busy; the next pass tells it again.
        let _ = entry.commands.try_send(Command::Seen { observed, as_of });
    }
    remove_orphans(shared, slot, &boxes);
}

/// The backend's boxes; none, with a warning, when it cannot be asked.
async fn list(slot: &ProviderSlot) -> Option<Boxes> {
    let provider = slot.provider.name();
    match timeout(LIST, slot.provider.list()).await {
        Ok(Ok(boxes)) => {
            slot.saw_boxes(boxes.len());
            Some(
                boxes
                    .into_iter()
                    .map(|info| (info.id, info.state))
                    .collect(),
            )
        }
        Ok(Err(error)) => {
            tracing::warn!(provider, %error, "provider could not list its boxes");
            None
        }
        Err(_) => {
            tracing::warn!(provider, "provider did not list its boxes in time");
            None
        }
    }
}

fn observe(boxes: &Boxes, id: &SandboxId) -> Observed {
    boxes
        .get(id)
        .map_or(Observed::Absent, |state| Observed::Box(*state))
}

/// Destroys the boxes that no sandbox owns, each by itself. What fails is found again.
fn remove_orphans(shared: &Arc<Shared>, slot: &Arc<ProviderSlot>, boxes: &Boxes) {
    for id in boxes.keys() {
        if shared.registry.get(id).is_some() {
            continue;
        }
        act(shared);
        let name = slot.provider.name();
        tell(shared, "orphan_destroyed", id, None, name);
        let (id, slot, abort) = (id.clone(), Arc::clone(slot), shared.abort.clone());
        shared.tasks.spawn(async move {
            let provider = slot.provider.name();
            tracing::warn!(sandbox = %id, provider, "box without a sandbox is destroyed");
            let outcome = tokio::select! {
                () = abort.cancelled() => return,
                outcome = timeout(ORPHAN, slot.provider.destroy(&id)) => outcome,
            };
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(sandbox = %id, provider, %error, "orphan could not be destroyed");
                }
                Err(_) => tracing::warn!(sandbox = %id, provider, "orphan was not destroyed in time"),
            }
        });
    }
}

/// Publishes what is put right.
fn tell(
    shared: &Shared,
    action: &'static str,
    id: &SandboxId,
    owner: Option<&OwnerId>,
    provider: &str,
) {
    let data = EventData::none()
        .with("action", action)
        .with("provider", provider.to_owned());
    let kind = EventType::ReconcileAction;
    shared.events.publish(kind, Some(id), owner, data);
}

fn act(shared: &Shared) {
    let actions = &shared.totals.reconcile_actions;
    actions.fetch_add(1, Ordering::Relaxed);
}
