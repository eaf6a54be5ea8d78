//! The store in domain words.

use std::path::Path;
use std::sync::Arc;

use stacyvm_types::{OwnerId, SandboxId, Timestamp};

use crate::StoreError;
use crate::record::{IdempotencyClaim, IdempotencyHit, IntentOutcome, SandboxRecord, StoredState};
use crate::sqlite::worker::{SharedWorkers, Workers};
use crate::sqlite::{open, statements};

/// How many threads read.
const READERS: usize = 2;

/// The durable record of every sandbox. Clones share one database; the last one to go closes it.
///
/// A write that was queued is done even when its future is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) workers: SharedWorkers,
}

impl Store {
    /// Opens or creates the database at `path` and brings it to the present schema.
    ///
    /// # Errors
    /// Names the file, the step and the way out.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::over(open::file(path.as_ref(), READERS)?)
    }

    /// A store that ends with the process.
    ///
    /// # Errors
    /// When SQLite cannot even do that.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::over(open::memory()?)
    }

    fn over(opened: open::Opened) -> Result<Self, StoreError> {
        Ok(Self {
            workers: Arc::new(Workers::start(opened)?),
        })
    }

    /// Writes that a box is about to be made, takes its id for ever, and ties the idempotency key
    /// to it, all in one commit. The record's state is `creating` whatever it says.
    ///
    /// # Errors
    /// When it is not written.
    pub async fn insert_intent(
        &self,
        record: SandboxRecord,
        claim: Option<IdempotencyClaim>,
    ) -> Result<IntentOutcome, StoreError> {
        let metadata = serde_json::to_string(&record.metadata)
            .expect("a map of strings to strings is always JSON");
        self.workers
            .write(move |connection| {
                statements::insert_intent(connection, &record, &metadata, claim.as_ref())
            })
            .await
    }

    /// Writes that the box answers. False when there is no such sandbox.
    ///
    /// # Errors
    /// When it is not written.
    pub async fn mark_running(&self, id: &SandboxId) -> Result<bool, StoreError> {
        self.set_state(id, StoredState::Running).await
    }

    /// Writes that the workload ended. False when there is no such sandbox.
    ///
    /// # Errors
    /// When it is not written.
    pub async fn mark_stopped(&self, id: &SandboxId) -> Result<bool, StoreError> {
        self.set_state(id, StoredState::Stopped).await
    }

    /// Writes that the sandbox was lost. False when there is no such sandbox.
    ///
    /// # Errors
    /// When it is not written.
    pub async fn mark_error(&self, id: &SandboxId) -> Result<bool, StoreError> {
        self.set_state(id, StoredState::Error).await
    }

    /// Writes that the box is about to be destroyed. False when there is no such sandbox.
    ///
    /// # Errors
    /// When it is not written.
    pub async fn mark_destroying(&self, id: &SandboxId) -> Result<bool, StoreError> {
        self.set_state(id, StoredState::Destroying).await
    }

    /// Writes that nothing of the box is left: its record goes, its id stays taken. False when
    /// there was no record any more.
    ///
    /// # Errors
    /// When it is not written.
    pub async fn mark_destroyed(&self, id: &SandboxId) -> Result<bool, StoreError> {
        let id = id.clone();
        self.workers
            .write(move |connection| statements::delete(connection, &id))
            .await
    }

    /// Like `mark_destroyed` for a sandbox that no client ever got: its idempotency key is free
    /// again, so that a repeated request makes another.
    ///
    /// # Errors
    /// When it is not written.
    pub async fn abandon(&self, id: &SandboxId) -> Result<bool, StoreError> {
        let id = id.clone();
        self.workers
            .write(move |connection| {
                statements::release_keys(connection, &id)?;
                statements::delete(connection, &id)
            })
            .await
    }

    /// Writes a new expiry. False when there is no such sandbox.
    ///
    /// # Errors
    /// When it is not written.
    pub async fn extend(&self, id: &SandboxId, expires_at: Timestamp) -> Result<bool, StoreError> {
        let id = id.clone();
        self.workers
            .write(move |connection| statements::extend(connection, &id, expires_at))
            .await
    }

    /// Every sandbox that is not destroyed, in no order.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn list_active(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        self.workers.read(statements::list).await
    }

    /// One sandbox; none when it is unknown or destroyed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn get(&self, id: &SandboxId) -> Result<Option<SandboxRecord>, StoreError> {
        let id = id.clone();
        self.workers
            .read(move |connection| statements::get(connection, &id))
            .await
    }

    /// What a key of this owner made, while it is honoured.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn idempotency(
        &self,
        owner: Option<&OwnerId>,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<IdempotencyHit>, StoreError> {
        let (owner, key) = (owner.cloned(), key.to_owned());
        self.workers
            .read(move |connection| statements::find_key(connection, owner.as_ref(), &key, now))
            .await
    }

    /// Drops the idempotency keys whose time is over, and says how many.
    ///
    /// # Errors
    /// When it is not written.
    pub async fn prune_idempotency(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.workers
            .write(move |connection| statements::delete_expired_keys(connection, now))
            .await
    }

    /// How many sandboxes there ever were.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn total_sandboxes(&self) -> Result<u64, StoreError> {
        self.workers.read(statements::count_ids).await
    }

    /// Finishes what is queued and closes the files. Later calls on any clone fail with `Closed`.
    pub async fn close(&self) {
        self.workers.stop().await;
    }

    async fn set_state(&self, id: &SandboxId, state: StoredState) -> Result<bool, StoreError> {
        let id = id.clone();
        self.workers
            .write(move |connection| statements::set_state(connection, &id, state))
            .await
    }
}
