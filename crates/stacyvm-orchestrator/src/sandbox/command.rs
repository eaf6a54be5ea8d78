//! The commands that the task of one sandbox obeys.

use std::time::Duration;

use stacyvm_types::Sandbox;
use tokio::sync::oneshot;
use tracing::Span;

use crate::error::Error;
use crate::lifecycle::Observed;

/// How many commands may wait for one task; more wait in their senders.
pub(crate) const COMMAND_QUEUE: usize = 16;

/// Why a sandbox is to be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DestroyReason {
    /// A client asked for it.
    Asked,
    /// Its time is over; the task looks once more, it may have been extended meanwhile.
    Expired,
}

/// A command for the task of one sandbox.
#[derive(Debug)]
pub(crate) enum Command {
    /// Destroy it; the answer comes after the first attempt, `false` when it was not to be done.
    Destroy {
        reason: DestroyReason,
        reply: Option<oneshot::Sender<Result<bool, Error>>>,
        span: Span,
    },
    /// Let it live until now plus `ttl`.
    Extend {
        ttl: Duration,
        reply: oneshot::Sender<Result<Sandbox, Error>>,
        span: Span,
    },
    /// What the backend reports of it, and the generation of its reports when it was asked.
    Seen { observed: Observed, as_of: u64 },
}

impl Command {
    /// The span of the request that sent it.
    pub(crate) fn span(&self) -> Span {
        match self {
            Self::Destroy { span, .. } | Self::Extend { span, .. } => span.clone(),
            Self::Seen { .. } => Span::none(),
        }
    }
}
