//! The task of one sandbox, which alone changes its phase, in the order of the commands that it
//! receives. A caller sends a command and awaits the answer; when the caller goes away, what was
//! begun is still brought to its end.
//!
//! It writes down what it is about to do before it does it, and tells its asker after what was
//! done is written down. What it logs while it obeys stands in the span of the request that told it
//! to; what it logs of its own accord stands in none.

pub(crate) mod command;
mod create;
mod destroy;

pub(crate) use create::{NewSandbox, SpawnFailure};

use std::sync::Arc;
use std::time::Duration;

use stacyvm_provider::BoxState;
use stacyvm_store::StoredState;
use stacyvm_types::{EventData, EventType, Sandbox, SandboxId, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument, Span};

use crate::error::Error;
use crate::lifecycle::{Event, Observed, Phase};
use crate::registry::Entry;
use crate::state::OrchestratorState;
use command::{Command, DestroyReason};

/// How long a provider may take to say what a sandbox ended of.
const CAUSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The task's state.
#[derive(Debug)]
pub(crate) struct SandboxTask {
    state: Arc<OrchestratorState>,
    entry: Arc<Entry>,
    commands: mpsc::Receiver<Command>,
    phase: Phase,
    expires_at: Timestamp,
    /// Whether the end of the workload is awaited; not while the backend cannot be asked,
    /// because it then says of every box that it has ended.
    watched: bool,
    /// The callers that wait for the destruction.
    waiting: Vec<oneshot::Sender<Result<bool, Error>>>,
}

impl SandboxTask {
    /// Makes the task of a sandbox that was found in the store. `observed` says whether the
    /// backend was asked about it.
    pub(crate) fn recovered(
        state: Arc<OrchestratorState>,
        entry: Arc<Entry>,
        commands: mpsc::Receiver<Command>,
        observed: bool,
    ) -> Self {
        let view = entry.view();
        Self {
            state,
            entry,
            commands,
            phase: view.phase,
            expires_at: view.expires_at,
            watched: observed,
            waiting: Vec::new(),
        }
    }

    /// Lives a recovered sandbox's life.
    pub(crate) async fn run_recovered(self, stored: StoredState) {
        match (stored, self.phase) {
            (StoredState::Running, Phase::Stopped | Phase::Lost) => {
                self.publish_end().await;
                self.record().await;
            }
            (StoredState::Creating, _) => {
                return self.destroy(destroy::Start::Abandon).await;
            }
            (StoredState::Destroying, _) => {
                return self.destroy(destroy::Start::Marked).await;
            }
            // The followers of this server's events have heard nothing of it yet.
            (_, Phase::Paused) => self.publish(EventType::SandboxPaused, EventData::none()),
            _ => {}
        }
        self.live().await;
    }

    /// Obeys until the sandbox is destroyed or the orchestrator stops.
    async fn live(mut self) {
        let stop = self.state.lifetime.stop.clone();
        let mut span = Span::none();
        while self.phase != Phase::Destroying {
            let watched = self.phase.is_alive() && self.watched;
            let entry = Arc::clone(&self.entry);
            let workload_ended = async {
                match &entry.slot {
                    Some(slot) if watched => slot.provider.wait_exit(&entry.facts.id).await,
                    _ => std::future::pending().await,
                }
            };
            let command = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                command = self.commands.recv() => command,
                () = workload_ended => Some(Command::Seen {
                    observed: Observed::Box(BoxState::Dead),
                    as_of: self.entry.generation(),
                }),
            };
            let Some(command) = command else { return };
            span = command.span();
            self.obey(command).instrument(span.clone()).await;
        }
        self.destroy(destroy::Start::Fresh).instrument(span).await;
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Destroy { reason, reply, .. } => {
                if reason == DestroyReason::Expired && self.expires_at > self.state.clock.now() {
                    self.schedule();
                    answer(reply, Ok(false));
                    return;
                }
                if reason == DestroyReason::Expired {
                    tracing::info!(sandbox = %self.id(), "sandbox expired");
                    let expired = &self.state.totals.expired;
                    expired.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    self.publish(EventType::SandboxExpired, EventData::none());
                }
                self.apply(Event::DestroyAsked);
                self.waiting.extend(reply);
            }
            Command::Extend { ttl, reply, .. } => {
                let result = self.extend(ttl).await;
                let _ = reply.send(result);
            }
            Command::Seen { observed, as_of } => self.see(observed, as_of).await,
        }
    }

    /// Believes what the backend said. Whether it moves can change at any time, so what was seen
    /// before the provider's newest word about that counts no longer.
    async fn see(&mut self, observed: Observed, as_of: u64) {
        if !observed.is_end() {
            self.watched = true;
            if as_of < self.entry.generation() {
                return;
            }
        }
        let before = self.phase;
        self.apply(observed.event());
        if self.phase == before {
            return;
        }
        match self.phase {
            Phase::Paused => {
                tracing::info!(sandbox = %self.id(), "sandbox was paused outside of StacyVM");
                self.publish(EventType::SandboxPaused, EventData::none());
            }
            Phase::Running => {
                tracing::info!(sandbox = %self.id(), "sandbox goes on");
                self.publish(EventType::SandboxResumed, EventData::none());
            }
            _ => {
                tracing::info!(sandbox = %self.id(), phase = ?self.phase, "sandbox ended by itself");
                self.publish_end().await;
                self.record().await;
            }
        }
    }

    async fn extend(&mut self, ttl: Duration) -> Result<Sandbox, Error> {
        if !self.phase.is_alive() {
            let id = self.id();
            return Err(Error::Conflict(format!("sandbox {id} is not running")));
        }
        let expires_at = self.state.clock.now().saturating_add(ttl);
        self.state.store.extend(self.id(), expires_at).await?;
        self.state.expiry.cancel(self.id(), self.expires_at);
        self.expires_at = expires_at;
        self.entry.update(|view| view.expires_at = expires_at);
        self.schedule();
        self.entry
            .public(&self.state.settings.preview_domain)
            .ok_or_else(|| Error::no_sandbox(self.id()))
    }

    fn schedule(&self) {
        self.state.expiry.schedule(self.id(), self.expires_at);
    }

    /// Makes the transition and shows it. Events that the phase refuses are ignored: they are
    /// late reports.
    fn apply(&mut self, event: Event) {
        match self.phase.on(event) {
            Ok(next) => {
                self.phase = next;
                self.entry.update(|view| view.phase = next);
                if matches!(next, Phase::Destroying | Phase::Destroyed) {
                    self.entry.ended.cancel();
                }
            }
            Err(refused) => {
                tracing::debug!(sandbox = %self.id(), %refused, "lifecycle event ignored");
            }
        }
    }

    /// Writes down a phase that the sandbox came to by itself. A failure is tolerated: after a
    /// restart the backend's list says the same again.
    async fn record(&self) {
        let store = &self.state.store;
        let written = match self.phase {
            Phase::Stopped => store.mark_stopped(self.id()).await,
            Phase::Lost => store.mark_error(self.id()).await,
            _ => return,
        };
        if let Err(error) = written {
            tracing::warn!(sandbox = %self.id(), %error, "sandbox state could not be stored");
        }
    }

    fn publish(&self, kind: EventType, data: EventData) {
        self.state.events.of(&self.entry.facts, kind, data);
    }

    /// Publishes that it came to an end that no client asked for.
    async fn publish_end(&self) {
        if let (Phase::Stopped, Some(slot)) = (self.phase, &self.entry.slot) {
            // A provider that hangs must not keep the sandbox's end a secret.
            let cause = slot.provider.cause_of_end(self.id());
            if let Ok(Some(limit)) = tokio::time::timeout(CAUSE_TIMEOUT, cause).await {
                let _ = self.entry.ended_of.set(limit);
            }
        }
        let (state, reason) = match self.phase {
            Phase::Stopped => ("stopped", self.entry.end_in_words()),
            _ => ("error", "its provider has lost it".to_owned()),
        };
        let data = EventData::none()
            .with("state", state)
            .with("reason", reason);
        let data = match self.entry.ended_of.get() {
            Some(limit) => data.with("limit", *limit),
            None => data,
        };
        self.publish(EventType::SandboxError, data);
    }

    fn id(&self) -> &SandboxId {
        &self.entry.facts.id
    }
}

fn answer<T>(reply: Option<oneshot::Sender<T>>, value: T) {
    if let Some(reply) = reply {
        // An asker that has gone away no longer wants to know.
        let _ = reply.send(value);
    }
}
