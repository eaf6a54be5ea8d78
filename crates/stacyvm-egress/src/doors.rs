//! How many may be inside at once, of all sandboxes and of each.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::control::Limits;
use crate::dns::MAX_WAITING;
use crate::members::Member;

/// The limits over all sandboxes.
#[derive(Debug)]
pub(crate) struct Doors {
    connections: Arc<Semaphore>,
    pub(crate) questions: Arc<Semaphore>,
}

/// One connection's places; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Inside {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Doors {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(limits.connections as usize)),
            questions: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// A place for one more connection of a sandbox; none when it, or all, have too many.
    pub(crate) fn enter(&self, member: &Member) -> Option<Inside> {
        Some(Inside {
            // Its own first: who has too many does not take a place from the others.
            _own: member.connections.clone().try_acquire_owned().ok()?,
            _all: self.connections.clone().try_acquire_owned().ok()?,
        })
    }
}
