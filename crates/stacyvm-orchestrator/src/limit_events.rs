//! Events about limits, logged and published in one place.

use stacyvm_types::{ErrorCode, EventData, EventType, OwnerId, SandboxId};

use crate::Error;
use crate::state::OrchestratorState;

/// Something about limits that an operator may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitEvent<'a> {
    /// A spawn found every sandbox in use and waits.
    SpawnQueued { owner: Option<&'a OwnerId> },
    /// A spawn that waited goes on.
    SpawnDequeued { owner: Option<&'a OwnerId> },
    /// A spawn waited in vain.
    SpawnQueueTimeout { owner: Option<&'a OwnerId> },
    /// An owner got a quota.
    QuotaCreated { owner: &'a OwnerId },
    /// An owner's quota was changed.
    QuotaUpdated { owner: &'a OwnerId },
    /// An owner has no quota any more.
    QuotaDeleted { owner: &'a OwnerId },
    /// A request was refused for a limit.
    ResourceLimit {
        sandbox: Option<&'a SandboxId>,
        owner: Option<&'a OwnerId>,
        operation: &'static str,
        message: &'a str,
    },
}

impl<'a> LimitEvent<'a> {
    /// The event's type.
    pub(crate) const fn kind(self) -> EventType {
        match self {
            Self::SpawnQueued { .. } => EventType::SpawnQueued,
            Self::SpawnDequeued { .. } => EventType::SpawnDequeued,
            Self::SpawnQueueTimeout { .. } => EventType::SpawnQueueTimeout,
            Self::QuotaCreated { .. } => EventType::QuotaCreated,
            Self::QuotaUpdated { .. } => EventType::QuotaUpdated,
            Self::QuotaDeleted { .. } => EventType::QuotaDeleted,
            Self::ResourceLimit { .. } => EventType::ResourceLimit,
        }
    }

    /// The owner that the event is about, if there is one.
    pub(crate) const fn owner(self) -> Option<&'a OwnerId> {
        match self {
            Self::SpawnQueued { owner }
            | Self::SpawnDequeued { owner }
            | Self::SpawnQueueTimeout { owner }
            | Self::ResourceLimit { owner, .. } => owner,
            Self::QuotaCreated { owner }
            | Self::QuotaUpdated { owner }
            | Self::QuotaDeleted { owner } => Some(owner),
        }
    }
}

impl OrchestratorState {
    /// Logs and publishes it; the one place that does.
    pub(crate) fn publish_limit(&self, event: LimitEvent<'_>) {
        let owner = event.owner();
        let name = owner.map_or("", |owner| owner.as_str());
        let (sandbox, operation, data) = match event {
            LimitEvent::ResourceLimit {
                sandbox,
                operation,
                message,
                ..
            } => {
                let data = EventData::none()
                    .with("operation", operation)
                    .with("message", message.to_owned());
                (sandbox, operation, data)
            }
            _ if name.is_empty() => (None, "", EventData::none()),
            _ => (
                None,
                "",
                EventData::none().with("owner_id", name.to_owned()),
            ),
        };
        let kind = event.kind();
        tracing::info!(%kind, owner = name, operation, "limits noticed");
        self.events.publish(kind, sandbox, owner, data);
    }

    /// Passes a result on, after saying that a limit refused it.
    pub(crate) fn report_limits<T>(
        &self,
        operation: &'static str,
        sandbox: Option<&SandboxId>,
        owner: Option<&OwnerId>,
        result: Result<T, Error>,
    ) -> Result<T, Error> {
        result.inspect_err(|error| {
            if error.code() == ErrorCode::ResourceLimit {
                self.publish_limit(LimitEvent::ResourceLimit {
                    sandbox,
                    owner,
                    operation,
                    message: &error.to_string(),
                });
            }
        })
    }
}
