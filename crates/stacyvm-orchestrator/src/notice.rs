//! What happens to limits, said once and in one place: a log line now, and whatever else listens.

use stacyvm_types::{ErrorCode, OwnerId};

use crate::Error;
use crate::shared::Shared;

/// Something about limits that an operator may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice<'a> {
    /// A spawn found every sandbox in use and waits.
    SpawnQueued { owner: Option<&'a OwnerId> },
    /// A spawn that waited goes on.
    SpawnDequeued { owner: Option<&'a OwnerId> },
    /// A spawn waited in vain.
    SpawnQueueTimeout { owner: Option<&'a OwnerId> },
    /// An owner got a quota, or another one.
    QuotaSet { owner: &'a OwnerId },
    /// An owner has no quota any more.
    QuotaDeleted { owner: &'a OwnerId },
    /// A request was refused for a limit.
    ResourceLimit {
        owner: Option<&'a OwnerId>,
        operation: &'static str,
    },
}

impl<'a> Notice<'a> {
    /// The event's type.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::SpawnQueued { .. } => "spawn.queued",
            Self::SpawnDequeued { .. } => "spawn.dequeued",
            Self::SpawnQueueTimeout { .. } => "spawn.queue_timeout",
            Self::QuotaSet { .. } => "quota.set",
            Self::QuotaDeleted { .. } => "quota.deleted",
            Self::ResourceLimit { .. } => "resource.limit",
        }
    }

    /// Whom it is about.
    pub(crate) const fn owner(self) -> Option<&'a OwnerId> {
        match self {
            Self::SpawnQueued { owner }
            | Self::SpawnDequeued { owner }
            | Self::SpawnQueueTimeout { owner }
            | Self::ResourceLimit { owner, .. } => owner,
            Self::QuotaSet { owner } | Self::QuotaDeleted { owner } => Some(owner),
        }
    }
}

impl Shared {
    /// The one place that every notice passes.
    pub(crate) fn notice(&self, notice: Notice<'_>) {
        let owner = notice.owner().map_or("", |owner| owner.as_str());
        let operation = match notice {
            Notice::ResourceLimit { operation, .. } => operation,
            _ => "",
        };
        tracing::info!(kind = notice.kind(), owner, operation, "limits noticed");
    }

    /// Passes a result on, after saying that a limit refused it.
    pub(crate) fn noted<T>(
        &self,
        operation: &'static str,
        owner: Option<&OwnerId>,
        result: Result<T, Error>,
    ) -> Result<T, Error> {
        if result
            .as_ref()
            .is_err_and(|error| error.code() == ErrorCode::ResourceLimit)
        {
            self.notice(Notice::ResourceLimit { owner, operation });
        }
        result
    }
}
