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

use crate::facts::SandboxFacts;
use crate::health::ProviderSlot;
use crate::lifecycle::{Observed, Phase};
use crate::registry::{Entry, View};
use crate::sandbox::SandboxTask;
use crate::sandbox::command::{COMMAND_QUEUE, Command};
use crate::state::OrchestratorState;

/// How long a backend may take to list its boxes.
const LIST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the removal of an orphan may take before it is left to the next pass.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(30);

type Boxes = HashMap<SandboxId, BoxState>;

/// Takes over every sandbox of the store, before anything else runs.
pub(crate) async fn recover(state: &Arc<OrchestratorState>, records: Vec<SandboxRecord>) {
    let lists = state
        .providers
        .iter()
        .map(|(name, slot)| async move { (name.clone(), list(slot).await) });
    let lists: HashMap<String, Option<Boxes>> = join_all(lists).await.into_iter().collect();
    for record in records {
        adopt(state, record, &lists);
    }
    for (name, boxes) in &lists {
        if let (Some(slot), Some(boxes)) = (state.providers.get(name), boxes) {
            remove_orphans(state, slot, boxes);
        }
    }
}

fn adopt(
    state: &Arc<OrchestratorState>,
    record: SandboxRecord,
    lists: &HashMap<String, Option<Boxes>>,
) {
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
        publish(state, action, &record.id, owner, &record.provider);
    }
    let slot = state.providers.get(&record.provider).cloned();
    let facts = SandboxFacts {
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
    let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
    let entry = Arc::new(Entry::new(facts, slot, sender, view));
    let id = entry.facts.id.clone();
    if state.registry.admit(&entry, 0, 0).is_err() {
        return;
    }
    if phase == Phase::Destroying {
        entry.ended.cancel();
    } else {
        state.expiry.schedule(&id, record.expires_at);
    }
    tracing::info!(sandbox = %id, ?phase, ?stored, "sandbox recovered");
    let task = SandboxTask::recovered(Arc::clone(state), entry, commands, observed.is_some());
    state.lifetime.tasks.spawn(task.run_recovered(stored));
}

/// Compares at every interval, until the orchestrator stops.
pub(crate) async fn run(state: Arc<OrchestratorState>) {
    loop {
        tokio::select! {
            () = state.lifetime.stop.cancelled() => return,
            () = tokio::time::sleep(state.settings.reconcile_interval) => {}
        }
        let passes = state.providers.values().map(|slot| pass(&state, slot));
        tokio::select! {
            () = state.lifetime.stop.cancelled() => return,
            _ = join_all(passes) => {}
        }
        let now = state.clock.now();
        if let Err(error) = state.store.prune_idempotency(now).await {
            tracing::warn!(%error, "expired idempotency keys could not be dropped");
        }
    }
}

/// Compares whenever the provider has recovered, until the orchestrator stops: what happened to its
/// boxes while it could not be asked is known at once.
pub(crate) async fn after_recoveries(state: Arc<OrchestratorState>, slot: Arc<ProviderSlot>) {
    let mut recoveries = slot.recoveries();
    loop {
        tokio::select! {
            () = state.lifetime.stop.cancelled() => return,
            recovered = recoveries.changed() => if recovered.is_err() { return },
        }
        tokio::select! {
            () = state.lifetime.stop.cancelled() => return,
            () = pass(&state, &slot) => {}
        }
    }
}

async fn pass(state: &Arc<OrchestratorState>, slot: &Arc<ProviderSlot>) {
    let _one_at_a_time = slot.comparing.lock().await;
    let name = slot.provider.name();
    let mut alive = state.registry.snapshot();
    alive.retain(|entry| entry.facts.provider == name && entry.view().phase.is_alive());
    let alive: Vec<_> = alive
        .into_iter()
        .map(|entry| (entry.generation(), entry))
        .collect();
    let Some(boxes) = list(slot).await else {
        return;
    };
    for (as_of, entry) in alive {
        let observed = observe(&boxes, &entry.facts.id);
        if observed.is_end() {
            count_action(state);
            let facts = &entry.facts;
            publish(state, "end_noticed", &facts.id, facts.owner.as_ref(), name);
        }
        // A task with a full queue is busy; the next pass tells it again.
        let _ = entry.commands.try_send(Command::Seen { observed, as_of });
    }
    remove_orphans(state, slot, &boxes);
}

/// The backend's boxes; none, with a warning, when it cannot be asked.
async fn list(slot: &ProviderSlot) -> Option<Boxes> {
    let provider = slot.provider.name();
    match timeout(LIST_TIMEOUT, slot.provider.list()).await {
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
fn remove_orphans(state: &Arc<OrchestratorState>, slot: &Arc<ProviderSlot>, boxes: &Boxes) {
    for id in boxes.keys() {
        if state.registry.get(id).is_some() {
            continue;
        }
        count_action(state);
        let name = slot.provider.name();
        publish(state, "orphan_destroyed", id, None, name);
        let (id, slot, abort) = (id.clone(), Arc::clone(slot), state.lifetime.abort.clone());
        state.lifetime.tasks.spawn(async move {
            let provider = slot.provider.name();
            tracing::warn!(sandbox = %id, provider, "box without a sandbox is destroyed");
            let outcome = tokio::select! {
                () = abort.cancelled() => return,
                outcome = timeout(ORPHAN_TIMEOUT, slot.provider.destroy(&id)) => outcome,
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
fn publish(
    state: &OrchestratorState,
    action: &'static str,
    id: &SandboxId,
    owner: Option<&OwnerId>,
    provider: &str,
) {
    let data = EventData::none()
        .with("action", action)
        .with("provider", provider.to_owned());
    let kind = EventType::ReconcileAction;
    state.events.publish(kind, Some(id), owner, data);
}

fn count_action(state: &OrchestratorState) {
    let actions = &state.totals.reconcile_actions;
    actions.fetch_add(1, Ordering::Relaxed);
}
