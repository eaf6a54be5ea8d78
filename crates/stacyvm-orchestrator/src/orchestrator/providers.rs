//! Providers and what is counted.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use stacyvm_types::{ProviderInfo, SandboxState};

use crate::error::Error;
use crate::health::ProviderSlot;
use crate::metrics::MetricsSnapshot;
use crate::orchestrator::Orchestrator;
use crate::schedules;

/// One provider with what only its own page shows.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderDetail {
    /// What the listing shows too.
    pub info: ProviderInfo,
    /// Living sandboxes of ours on it.
    pub sandbox_count: u64,
    /// The image of a spawn that names none.
    pub default_image: String,
    /// Capabilities that this machine lacks, one sentence each.
    pub degradations: Vec<String>,
}

impl Orchestrator {
    /// Every configured provider, sorted by name, with what its last check found.
    pub async fn providers(&self) -> Vec<ProviderInfo> {
        let slots = self.state.providers.iter();
        slots.map(|(name, slot)| self.info(name, slot)).collect()
    }

    /// One provider.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn provider(&self, name: &str) -> Result<ProviderDetail, Error> {
        let slot = self.state.providers.get(name).ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            Error::NotFound(format!("provider {name:?} is not configured"))
        })?;
        let entries = self.state.registry.snapshot();
        let ours = entries.iter().filter(|entry| entry.facts.provider == name);
        Ok(ProviderDetail {
            info: self.info(name, slot),
            sandbox_count: ours.filter(|entry| entry.state().is_some()).count() as u64,
            default_image: slot.provider.default_image().to_owned(),
            degradations: slot.provider.degradations(),
        })
    }

    /// Checks every provider now.
    pub async fn test_providers(&self) -> BTreeMap<String, bool> {
        schedules::check_all_providers(&self.state).await;
        let slots = self.state.providers.iter();
        slots
            .map(|(name, slot)| (name.clone(), slot.healthy()))
            .collect()
    }

    /// Whether a spawn that names no provider would find one that works, from cached health.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), String> {
        let state = &self.state;
        if state.lifetime.closed.load(Ordering::SeqCst) {
            return Err("shutting down".to_owned());
        }
        let name = &state.settings.default_provider;
        match state.providers.get(name) {
            Some(slot) if slot.healthy() => Ok(()),
            Some(slot) => Err(format!(
                "provider {name} is not healthy: {}",
                slot.error().unwrap_or_default()
            )),
            None => Err(format!("provider {name} is not configured")),
        }
    }

    /// Everything counted, at this moment.
    pub fn metrics(&self) -> MetricsSnapshot {
        let state = &self.state;
        let states = SandboxState::ALL.into_iter();
        let mut by_state: BTreeMap<SandboxState, u64> = states
            .filter(|state| *state != SandboxState::Destroyed)
            .map(|state| (state, 0))
            .collect();
        let names = state.providers.keys();
        let mut by_provider: BTreeMap<String, u64> = names.map(|name| (name.clone(), 0)).collect();
        let mut active = 0;
        for entry in state.registry.snapshot() {
            let Some(state) = entry.state() else { continue };
            active += 1;
            *by_state.entry(state).or_default() += 1;
            *by_provider.entry(entry.facts.provider.clone()).or_default() += 1;
        }
        let totals = &state.totals;
        let slots = state.providers.iter();
        MetricsSnapshot {
            uptime_seconds: state.started.elapsed().as_secs_f64(),
            active_sandboxes: active,
            total_sandboxes: totals.sandboxes.load(Ordering::Relaxed),
            by_state,
            by_provider,
            active_execs: totals.active_execs.load(Ordering::Relaxed),
            expired: totals.expired.load(Ordering::Relaxed),
            reconcile_actions: totals.reconcile_actions.load(Ordering::Relaxed),
            operations: slots
                .flat_map(|(name, slot)| slot.metrics.snapshot(name))
                .collect(),
        }
    }

    fn info(&self, name: &str, slot: &ProviderSlot) -> ProviderInfo {
        slot.info(name == self.state.settings.default_provider)
    }
}
