//! From the wish to destroy a sandbox until nothing of it is left. A failed attempt is answered,
//! shown, and tried again for as long as it takes; each sandbox by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stacyvm_provider::ProviderError;
use stacyvm_store::StoreError;
use stacyvm_types::{EventData, EventType, Sandbox};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::error::Error;
use crate::lifecycle::{Event, Observed};
use crate::metrics::Operation;
use crate::sandbox::command::Command;
use crate::sandbox::{SandboxTask, SpawnFailure, answer};

/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Tells when the sandbox's provider has recovered.
type Recoveries = watch::Receiver<u64>;

/// Why an attempt came to nothing.
struct Failure {
    message: String,
    /// The backend could not be asked at all.
    unavailable: bool,
}

impl Failure {
    fn public(&self, provider: &str) -> Error {
        let message = &self.message;
        if self.unavailable {
            return Error::Unavailable(format!(
                "provider {provider}: {message}; the sandbox is destroyed as soon as it is back"
            ));
        }
        Error::Provider {
            provider: provider.to_owned(),
            message: message.clone(),
            source: None,
        }
    }
}

/// Where a destruction starts from.
pub(crate) enum Start {
    /// A living sandbox: the mark is to be written first.
    Fresh,
    /// The mark is in the store already.
    Marked,
    /// An intent from before a restart, whose client never got an answer.
    Abandon,
    /// Its creation failed; its client hears so after the first attempt to clean up.
    Failed {
        reply: oneshot::Sender<Result<Sandbox, SpawnFailure>>,
        error: Error,
        /// Its idempotency key, held until its row has gone.
        key: Option<Arc<dyn Send + Sync>>,
    },
}

impl SandboxTask {
    /// Destroys until it is done or the orchestrator stops; whatever is left then is finished
    /// after the next start.
    pub(super) async fn destroy(mut self, start: Start) {
        self.state.expiry.cancel(self.id(), self.expires_at);
        let mut abandon = true;
        let mut failed_spawn = None;
        match start {
            Start::Fresh => {
                abandon = false;
                // Without the mark a crash now would bring it back as lost. Still better than
                // letting it run: a full disk is often the reason for destroying.
                if let Err(error) = self.state.store.mark_destroying(self.id()).await {
                    tracing::warn!(sandbox = %self.id(), %error, "sandbox could not be marked for destruction");
                }
            }
            Start::Marked => abandon = false,
            Start::Abandon => {}
            Start::Failed { reply, error, key } => failed_spawn = Some((reply, error, key)),
        }
        let mut backoff = Backoff::default();
        let slot = self.entry.slot.as_ref();
        let mut recoveries = slot.map(|slot| slot.recoveries());
        loop {
            let Some(outcome) = self.attempt().await else {
                return;
            };
            let Err(failure) = outcome else { break };
            let message = failure.message.clone();
            tracing::warn!(sandbox = %self.id(), error = message, "sandbox could not be destroyed and is tried again");
            if !self.entry.view().destroy_failed {
                let data = EventData::none()
                    .with("state", "error")
                    .with("reason", format!("it could not be destroyed: {message}"));
                self.publish(EventType::SandboxError, data);
            }
            self.entry.update(|view| view.destroy_failed = true);
            for reply in self.waiting.drain(..) {
                let _ = reply.send(Err(failure.public(&self.entry.facts.provider)));
            }
            if let Some((reply, error, _key)) = failed_spawn.take() {
                let _ = reply.send(Err(SpawnFailure::Failed(error)));
            }
            if !self.pause(backoff.next(), &mut recoveries).await {
                return;
            }
        }
        self.apply(Event::BoxGone);
        let written = self.write_down(abandon).await;
        self.state.registry.remove(self.id());
        tracing::info!(sandbox = %self.id(), "sandbox destroyed");
        self.publish(EventType::SandboxDestroyed, EventData::none());
        for reply in self.waiting.drain(..) {
            let _ = reply.send(Ok(true));
        }
        self.settle_queue();
        if let Some((reply, error, key)) = failed_spawn {
            drop(key);
            let _ = reply.send(Err(SpawnFailure::Failed(error)));
        }
        if let Err(error) = written {
            self.write_down_later(abandon, error).await;
        }
    }

    /// One attempt; none when the orchestrator was stopped meanwhile.
    async fn attempt(&self) -> Option<Result<(), Failure>> {
        let failure = |message| Failure {
            message,
            unavailable: false,
        };
        let Some(slot) = &self.entry.slot else {
            let name = &self.entry.facts.provider;
            let message = format!("provider {name:?} is not configured any more");
            return Some(Err(failure(message)));
        };
        let began = Instant::now();
        let abort = self.state.lifetime.abort.clone();
        let outcome = tokio::select! {
            biased;
            () = abort.cancelled() => return None,
            outcome = timeout(ATTEMPT_TIMEOUT, slot.provider.destroy(self.id())) => outcome,
        };
        let outcome = match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                if let Some(cause) = std::error::Error::source(&error) {
                    tracing::warn!(sandbox = %self.id(), cause, "destroy attempt failed");
                }
                Err(Failure {
                    message: error.to_string(),
                    unavailable: matches!(error, ProviderError::Unavailable(_)),
                })
            }
            Err(_) => Err(failure(format!(
                "destroying it did not end within {ATTEMPT_TIMEOUT:?}"
            ))),
        };
        self.measure(Operation::Destroy, began, outcome.is_err());
        Some(outcome)
    }

    /// Waits before the next attempt; who asks meanwhile gets one at once, and so does a sandbox
    /// whose provider has recovered. False when the orchestrator stops.
    async fn pause(&mut self, wait: Duration, recoveries: &mut Option<Recoveries>) -> bool {
        let over = sleep(wait);
        tokio::pin!(over);
        let stop = self.state.lifetime.stop.clone();
        let recovered = async {
            let Some(recoveries) = recoveries else {
                return std::future::pending().await;
            };
            if recoveries.changed().await.is_err() {
                std::future::pending().await
            }
        };
        tokio::pin!(recovered);
        loop {
            let command = tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                command = self.commands.recv() => command,
                () = &mut over => return true,
                () = &mut recovered => return true,
            };
            match command {
                Some(Command::Destroy { reply, .. }) => {
                    self.waiting.extend(reply);
                    return true;
                }
                Some(Command::Extend { reply, .. }) => {
                    let id = self.id();
                    let error = Error::Conflict(format!("sandbox {id} is being destroyed"));
                    let _ = reply.send(Err(error));
                }
                // The box went away by itself: the next attempt will succeed.
                Some(Command::Seen {
                    observed: Observed::Absent,
                    ..
                }) => return true,
                Some(Command::Seen { .. }) | None => {}
            }
        }
    }

    async fn write_down(&self, abandon: bool) -> Result<(), StoreError> {
        let store = &self.state.store;
        if abandon {
            store.abandon(self.id()).await.map(drop)
        } else {
            store.mark_destroyed(self.id()).await.map(drop)
        }
    }

    /// Nothing runs any more and every caller has been told; only the record still says otherwise.
    async fn write_down_later(&self, abandon: bool, mut error: StoreError) {
        let mut backoff = Backoff::default();
        loop {
            tracing::warn!(sandbox = %self.id(), %error, "sandbox destruction could not be stored and is tried again");
            tokio::select! {
                () = self.state.lifetime.stop.cancelled() => return,
                () = sleep(backoff.next()) => {}
            }
            match self.write_down(abandon).await {
                Ok(()) | Err(StoreError::Closed) => return,
                Err(next) => error = next,
            }
        }
    }

    /// Answers the commands that came too late.
    pub(super) fn settle_queue(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Destroy { reply, .. } => answer(reply, Ok(true)),
                Command::Extend { reply, .. } => {
                    let _ = reply.send(Err(Error::no_sandbox(self.id())));
                }
                Command::Seen { .. } => {}
            }
        }
    }
}
