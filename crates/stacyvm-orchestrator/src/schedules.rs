//! What is done again and again: expired sandboxes are destroyed and providers are checked.
//!
//! The wall clock is read at least every half second whatever the next expiry is, so a clock
//! that jumps, or a machine that slept, is noticed within that time. Expiry only sends commands;
//! it never waits for a task, so a stuck destroy delays no other sandbox.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;

use crate::health::ProviderSlot;
use crate::sandbox::command::{Command, DestroyReason};
use crate::state::OrchestratorState;

/// The longest time between two looks at the clock.
const CLOCK_INTERVAL: Duration = Duration::from_millis(500);

/// How soon one that was not healthy is checked again: spawns that wait for it should not wait long.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Tells the tasks of sandboxes that their time is over, until the orchestrator stops.
pub(crate) async fn expire_sandboxes(state: Arc<OrchestratorState>) {
    loop {
        let now = state.clock.now();
        for id in state.expiry.take_due(now) {
            let Some(entry) = state.registry.get(&id) else {
                continue;
            };
            let command = Command::Destroy {
                reason: DestroyReason::Expired,
                reply: None,
                span: tracing::Span::none(),
            };
            if let Err(TrySendError::Full(_)) = entry.commands.try_send(command) {
                state
                    .expiry
                    .schedule(&id, now.saturating_add(CLOCK_INTERVAL));
            }
        }
        let wait = state.expiry.next().map_or(CLOCK_INTERVAL, |at| {
            at.saturating_since(state.clock.now())
                .clamp(Duration::from_millis(1), CLOCK_INTERVAL)
        });
        tokio::select! {
            () = state.lifetime.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Checks a provider at its interval, and sooner while it is not healthy, until the orchestrator
/// stops.
pub(crate) async fn check_provider(state: Arc<OrchestratorState>, slot: Arc<ProviderSlot>) {
    let usual = state.settings.health_interval;
    loop {
        let wait = if slot.healthy() {
            usual
        } else {
            usual.min(RECHECK_INTERVAL)
        };
        tokio::select! {
            () = state.lifetime.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        slot.check(|| state.clock.now()).await;
    }
}

/// Checks every provider now, all at once.
pub(crate) async fn check_all_providers(state: &OrchestratorState) {
    let checks = state
        .providers
        .values()
        .map(|slot| slot.check(|| state.clock.now()));
    futures_util::future::join_all(checks).await;
}
