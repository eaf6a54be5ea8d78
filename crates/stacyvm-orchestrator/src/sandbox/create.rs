//! From an admitted request to a running sandbox: intent, box, record, answer, in this order.
//! A crash before the answer leaves a row that the next start takes back; a client that has its
//! answer finds its sandbox after any crash.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stacyvm_provider::{BoxSpec, Provider, ProviderError, SandboxOps};
use stacyvm_store::{IdempotencyClaim, IntentOutcome, SandboxRecord, StoredState};
use stacyvm_types::{EventData, EventType, Sandbox};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{Instrument, Span};

use crate::error::Error;
use crate::keys::KeyGuard;
use crate::lifecycle::{Event, Phase};
use crate::metrics::Operation;
use crate::registry::{Entry, Full};
use crate::sandbox::SandboxTask;
use crate::sandbox::command::Command;
use crate::sandbox::destroy::Start;
use crate::state::OrchestratorState;

/// How long a backend may take to make a box.
const CREATE_TIMEOUT: Duration = Duration::from_secs(120);

/// Why there is no sandbox.
#[derive(Debug)]
pub(crate) enum SpawnFailure {
    /// The id was given out before; draw another.
    IdTaken,
    /// There are as many as there may be.
    NoRoom(Full),
    Failed(Error),
}

/// What a new sandbox starts from.
#[derive(Debug)]
pub(crate) struct NewSandbox {
    pub(crate) spec: BoxSpec,
    pub(crate) claim: Option<IdempotencyClaim>,
    /// Held until it runs or has failed.
    pub(crate) key: Option<Arc<KeyGuard>>,
    pub(crate) reply: oneshot::Sender<Result<Sandbox, SpawnFailure>>,
    /// The tracing span of the request that asks for the sandbox.
    pub(crate) span: Span,
}

impl SandboxTask {
    /// Makes the task of a sandbox that is about to be created.
    pub(crate) fn creating(
        state: Arc<OrchestratorState>,
        entry: Arc<Entry>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let expires_at = entry.view().expires_at;
        Self {
            state,
            entry,
            commands,
            phase: Phase::Creating,
            expires_at,
            watched: true,
            waiting: Vec::new(),
        }
    }

    /// Makes the sandbox and lives its life.
    pub(crate) async fn run_new(self, new: NewSandbox) {
        let span = new.span.clone();
        if let Some(owner) = self.begin(new).instrument(span).await {
            owner.live().await;
        }
    }

    /// Makes the sandbox; none when it failed or no caller wants it any more, and nothing of it is
    /// left then.
    async fn begin(mut self, new: NewSandbox) -> Option<Self> {
        let NewSandbox {
            spec,
            claim,
            key,
            reply,
            span: _,
        } = new;
        let keyed = claim.is_some();
        let began = Instant::now();
        let written = self.state.store.insert_intent(self.intent(), claim).await;
        match written {
            Ok(IntentOutcome::Written) => {}
            Ok(IntentOutcome::IdTaken) => {
                self.give_up(reply, SpawnFailure::IdTaken);
                return None;
            }
            Err(error) => {
                tracing::error!(sandbox = %self.id(), %error, "sandbox intent could not be stored");
                self.give_up(reply, SpawnFailure::Failed(error.into()));
                return None;
            }
        }
        let given_out = &self.state.totals.sandboxes;
        given_out.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let facts = &self.entry.facts;
        let data = EventData::none()
            .with("provider", facts.provider.clone())
            .with("image", facts.image.clone());
        self.publish(EventType::SandboxCreated, data);
        let made = self.make(&spec).await;
        self.measure(Operation::Spawn, began, made.is_err());
        if let Err(error) = made {
            if matches!(error, Made::Aborted) {
                return None;
            }
            let error = error.into_public(&self.entry.facts.provider);
            let data = EventData::none()
                .with("state", "error")
                .with("reason", error.to_string());
            self.publish(EventType::SandboxError, data);
            self.apply(Event::CreateFailed);
            let start = Start::Failed {
                reply,
                error,
                key: key.map(|key| key as Arc<dyn Send + Sync>),
            };
            self.destroy(start).await;
            return None;
        }
        self.apply(Event::Created);
        tracing::info!(sandbox = %self.id(), provider = self.entry.facts.provider, "sandbox runs");
        let provider = self.entry.facts.provider.clone();
        let data = EventData::none().with("provider", provider);
        self.publish(EventType::SandboxRunning, data);
        self.schedule();
        drop(key);
        let sandbox = self.entry.public(&self.state.settings.preview_domain);
        let sandbox = sandbox.expect("a running sandbox is shown");
        if reply.send(Ok(sandbox)).is_err() && !keyed {
            // Its client went away without ever learning its id. With a key it may come back.
            tracing::info!(sandbox = %self.id(), "sandbox has no client and is destroyed");
            self.apply(Event::DestroyAsked);
            self.destroy(Start::Fresh).await;
            return None;
        }
        Some(self)
    }

    /// The box, its operations, and the record that it runs.
    async fn make(&self, spec: &BoxSpec) -> Result<(), Made> {
        let slot = self.entry.slot.as_ref().expect("a spawn has a provider");
        let abort = self.state.lifetime.abort.clone();
        let ops = tokio::select! {
            biased;
            () = abort.cancelled() => return Err(Made::Aborted),
            made = timeout(CREATE_TIMEOUT, self.create(slot.provider.as_ref(), spec)) => made,
        };
        let ops = ops.map_err(|_| Made::TooSlow)?.map_err(Made::Provider)?;
        // Set once: this is the only writer before the sandbox is shown as running.
        let _ = self.entry.ops.set(ops);
        match self.state.store.mark_running(self.id()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Made::Store(Error::Internal {
                message: "the store lost the sandbox's intent".to_owned(),
                source: None,
            })),
            Err(error) => Err(Made::Store(error.into())),
        }
    }

    /// The box, once not too many others are being made.
    async fn create(
        &self,
        provider: &dyn Provider,
        spec: &BoxSpec,
    ) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        let _permit = match &self.state.creates {
            None => None,
            Some(creates) => Some(creates.acquire().await),
        };
        provider.create(spec).await
    }

    /// Ends a sandbox of which nothing was made or written.
    fn give_up(
        mut self,
        reply: oneshot::Sender<Result<Sandbox, SpawnFailure>>,
        failure: SpawnFailure,
    ) {
        self.apply(Event::CreateFailed);
        self.apply(Event::BoxGone);
        self.state.registry.remove(self.id());
        self.settle_queue();
        let _ = reply.send(Err(failure));
    }

    fn intent(&self) -> SandboxRecord {
        let facts = &self.entry.facts;
        SandboxRecord {
            id: facts.id.clone(),
            state: StoredState::Creating,
            provider: facts.provider.clone(),
            image: facts.image.clone(),
            memory_mb: facts.memory_mb,
            vcpus: facts.vcpus,
            disk_mb: facts.disk_mb,
            preview: facts.preview,
            owner: facts.owner.clone(),
            template: facts.template.clone(),
            isolation: facts.isolation,
            created_at: facts.created_at,
            expires_at: self.expires_at,
            metadata: facts.metadata.clone(),
        }
    }

    pub(super) fn measure(&self, operation: Operation, began: Instant, failed: bool) {
        if let Some(slot) = &self.entry.slot {
            slot.metrics.record(operation, began.elapsed(), failed);
        }
    }
}

/// Why a box was not made.
enum Made {
    Aborted,
    TooSlow,
    Provider(ProviderError),
    Store(Error),
}

impl Made {
    fn into_public(self, provider: &str) -> Error {
        match self {
            Self::Aborted => Error::shutting_down(),
            Self::TooSlow => Error::Provider {
                provider: provider.to_owned(),
                message: format!("the sandbox was not ready within {CREATE_TIMEOUT:?}"),
                source: None,
            },
            Self::Provider(error) => Error::from_provider(provider, error),
            Self::Store(error) => error,
        }
    }
}
