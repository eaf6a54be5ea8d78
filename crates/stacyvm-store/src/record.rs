//! What is stored, in the domain's words.

use std::collections::BTreeMap;

use stacyvm_types::{Isolation, OwnerId, PreviewAccess, SandboxId, Timestamp, Vcpus};

/// Where a stored sandbox is in its life. A destroyed one has no record any more, only its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredState {
    /// The intent is written; whether a box exists is unknown.
    Creating,
    /// Its client was told that it runs, or is about to be told.
    Running,
    /// Its workload ended.
    Stopped,
    /// It was lost.
    Error,
    /// It is to be destroyed; whether a box still exists is unknown.
    Destroying,
}

impl StoredState {
    const ALL: [Self; 5] = [
        Self::Creating,
        Self::Running,
        Self::Stopped,
        Self::Error,
        Self::Destroying,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::Destroying => "destroying",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// One sandbox. What runs inside knows its own variables; they are never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxRecord {
    /// Its name for ever.
    pub id: SandboxId,
    /// Where it is in its life.
    pub state: StoredState,
    /// The provider that has it.
    pub provider: String,
    /// What it was made from, as the request named it.
    pub image: String,
    /// MiB.
    pub memory_mb: u64,
    /// Cores.
    pub vcpus: Vcpus,
    /// What it may write to its disk, MiB; none means no limit of its own.
    pub disk_mb: Option<u64>,
    /// The sandbox's owner, if the spawn named one.
    pub owner: Option<OwnerId>,
    /// The template it was made from.
    pub template: Option<String>,
    /// What it really got.
    pub isolation: Isolation,
    /// When the request was accepted.
    pub created_at: Timestamp,
    /// When it is to be destroyed.
    pub expires_at: Timestamp,
    /// The client's labels.
    pub metadata: BTreeMap<String, String>,
    /// Who may open its ports in a browser; none means what the configuration says.
    pub preview: Option<PreviewAccess>,
}

/// A request's claim to an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyClaim {
    /// The owner of the key.
    pub owner: Option<OwnerId>,
    /// The key.
    pub key: String,
    /// The digest of the request that used it.
    pub digest: [u8; 32],
    /// When the claim ends.
    pub expires_at: Timestamp,
}

/// What an idempotency key made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyHit {
    /// The digest of the request that made the sandbox.
    pub digest: [u8; 32],
    /// The sandbox it made, which may be destroyed by now.
    pub sandbox: SandboxId,
}

/// What became of an intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum IntentOutcome {
    /// It is written; the box may be made.
    Written,
    /// The id was given out before; nothing is written.
    IdTaken,
}
