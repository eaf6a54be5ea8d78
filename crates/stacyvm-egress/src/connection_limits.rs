//! How many connections and questions are served at once, of all sandboxes and of each.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::control::Limits;
use crate::sandboxes::Sandbox;

/// Questions of all sandboxes that wait for an answer at the same moment, over UDP.
pub(crate) const MAX_WAITING: usize = 2048;

/// The limits over all sandboxes; those of one sandbox are in [`Sandbox`].
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    connections: Arc<Semaphore>,
    questions: Arc<Semaphore>,
}

/// The right to one connection, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl ConnectionLimits {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(limits.connections as usize)),
            questions: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// The right to one more connection of a sandbox; none when it, or all, have too many.
    pub(crate) fn acquire(&self, sandbox: &Sandbox) -> Option<ConnectionPermit> {
        Some(ConnectionPermit {
            // The sandbox's own limit first: one that has reached it takes nothing from the others.
            _own: sandbox.connections.clone().try_acquire_owned().ok()?,
            _all: self.connections.clone().try_acquire_owned().ok()?,
        })
    }

    /// The right to one more question over UDP; none when too many wait for an answer.
    pub(crate) fn acquire_question(&self) -> Option<OwnedSemaphorePermit> {
        self.questions.clone().try_acquire_owned().ok()
    }
}
