//! The owner of one sandbox: a task that alone changes its phase, in the order in which it was
//! told to. Whoever wants something sends a command and awaits the answer; when the asker goes
//! away, what was begun is still brought to its end.
//!
//! It writes down what it is about to do before it does it, and tells its asker after what was
//! done is written down. What it logs while it obeys stands in the span of the request that told it
//! to; what it logs of its own accord stands in none.

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

use crate::Error;
use crate::lifecycle::{Event, Observed, Phase};
use crate::registry::Entry;
use crate::shared::Shared;

/// How many commands may wait for an owner; more wait in their senders.
pub(crate) const QUEUE: usize = 16;
/// How long a provider may take to say what a sandbox ended of.
const CAUSE: Duration = Duration::from_secs(5);

/// Why a sandbox is to be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A client said so.
    Asked,
    /// Its time is over; the owner looks once more, it may have been extended meanwhile.
    Expired,
}

/// What an owner can be told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Destroy it; the answer comes after the first attempt, `false` when it was not to be done.
    Destroy {
        why: Why,
        reply: Option<oneshot::Sender<Result<bool, Error>>>,
        span: Span,
    },
    /// Let it live until now plus `ttl`.
    Extend {
        ttl: Duration,
        reply: oneshot::Sender<Result<Sandbox, Error>>,
        span: Span,
    },
    /// What the backend said of it, and how its news stood when it was asked.
    Seen { observed: Observed, as_of: u64 },
}

impl Command {
    /// The span of whoever told it.
    fn span(&self) -> Span {
        match self {
            Self::Destroy { span, .. } | Self::Extend { span, .. } => span.clone(),
            Self::Seen { .. } => Span::none(),
        }
    }
}

/// The task's state.
#[derive(Debug)]
pub(crate) struct Owner {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    commands: mpsc::Receiver<Command>,
    phase: Phase,
    expires_at: Timestamp,
    /// Whether the end of the workload is awaited; not while the backend cannot be asked,
    /// because it then says of every box that it has ended.
    watched: bool,
    /// Who waits for the destruction.
    waiting: Vec<oneshot::Sender<Result<bool, Error>>>,
}

impl Owner {
    /// Of a sandbox from the store. `stored` is what the store says, `observed` whether the
    /// backend was asked.
    pub(crate) fn recovered(
        shared: Arc<Shared>,
        entry: Arc<Entry>,
        commands: mpsc::Receiver<Command>,
        observed: bool,
    ) -> Self {
        let view = entry.view();
        Self {
            shared,
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
                self.tell_end().await;
                self.record().await;
            }
            (StoredState::Creating, _) => {
                return self.destroy(destroy::Start::Abandon).await;
            }
            (StoredState::Destroying, _) => {
                return self.destroy(destroy::Start::Marked).await;
            }
            // Whoever follows events of this server has heard nothing of it yet.
            (_, Phase::Paused) => self.tell(EventType::SandboxPaused, EventData::none()),
            _ => {}
        }
        self.live().await;
    }

    /// Obeys until the sandbox is destroyed or the orchestrator stops.
    async fn live(mut self) {
        let stop = self.shared.stop.clone();
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
                    as_of: self.entry.news(),
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
            Command::Destroy { why, reply, .. } => {
                if why == Why::Expired && self.expires_at > self.shared.clock.now() {
                    self.schedule();
                    answer(reply, Ok(false));
                    return;
                }
                if why == Why::Expired {
                    tracing::info!(sandbox = %self.id(), "sandbox expired");
                    let expired = &self.shared.totals.expired;
                    expired.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    self.tell(EventType::SandboxExpired, EventData::none());
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
            if as_of < self.entry.news() {
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
                tracing::info!(sandbox = %self.id(), "sandbox was paused behind our back");
                self.tell(EventType::SandboxPaused, EventData::none());
            }
            Phase::Running => {
                tracing::info!(sandbox = %self.id(), "sandbox goes on");
                self.tell(EventType::SandboxResumed, EventData::none());
            }
            _ => {
                tracing::info!(sandbox = %self.id(), phase = ?self.phase, "sandbox ended by itself");
                self.tell_end().await;
                self.record().await;
            }
        }
    }

    async fn extend(&mut self, ttl: Duration) -> Result<Sandbox, Error> {
        if !self.phase.is_alive() {
            let id = self.id();
            return Err(Error::Conflict(format!("sandbox {id} is not running")));
        }
        let expires_at = self.shared.clock.now().saturating_add(ttl);
        self.shared.store.extend(self.id(), expires_at).await?;
        self.shared.expiry.cancel(self.id(), self.expires_at);
        self.expires_at = expires_at;
        self.entry.update(|view| view.expires_at = expires_at);
        self.schedule();
        self.entry
            .public(&self.shared.settings.preview_domain)
            .ok_or_else(|| Error::no_sandbox(self.id()))
    }

    fn schedule(&self) {
        self.shared.expiry.schedule(self.id(), self.expires_at);
    }

    /// Makes the transition and shows it. Events that the phase refuses are ignored: they are
    /// late news.
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
        let store = &self.shared.store;
        let written = match self.phase {
            Phase::Stopped => store.mark_stopped(self.id()).await,
            Phase::Lost => store.mark_error(self.id()).await,
            _ => return,
        };
        if let Err(error) = written {
            tracing::warn!(sandbox = %self.id(), %error, "sandbox state could not be stored");
        }
    }

    fn tell(&self, kind: EventType, data: EventData) {
        self.shared.events.of(&self.entry, kind, data);
    }

    /// That it came to an end that nobody asked for.
    async fn tell_end(&self) {
        if let (Phase::Stopped, Some(slot)) = (self.phase, &self.entry.slot) {
            // A provider that hangs must not keep the sandbox's end a secret.
            let cause = slot.provider.cause_of_end(self.id());
            if let Ok(Some(limit)) = tokio::time::timeout(CAUSE, cause).await {
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
        self.tell(EventType::SandboxError, data);
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
