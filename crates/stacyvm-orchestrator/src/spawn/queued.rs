//! A spawn that finds no room waits in the queue, or is refused.

use stacyvm_types::OwnerId;

use crate::limit_events::LimitEvent;
use crate::queue::{QueueRefusal, QueueSlot, WaitEnd};
use crate::registry::Full;
use crate::state::OrchestratorState;
use crate::{Error, admission};

/// One spawn and its slot in the queue, if it waits.
pub(super) struct QueuedSpawn<'a> {
    state: &'a OrchestratorState,
    owner: Option<&'a OwnerId>,
    slot: Option<QueueSlot<'a>>,
}

impl<'a> QueuedSpawn<'a> {
    pub(super) fn new(state: &'a OrchestratorState, owner: Option<&'a OwnerId>) -> Self {
        Self {
            state,
            owner,
            slot: None,
        }
    }

    /// Before the first try: spawns that came earlier go first.
    pub(super) async fn behind_others(&mut self) -> Result<(), Error> {
        if self.state.queue.is_occupied() {
            return self.wait().await;
        }
        Ok(())
    }

    /// After a try that found no room; returns when another one is worth it.
    pub(super) async fn after(&mut self, full: Full) -> Result<(), Error> {
        if full == Full::All && self.state.queue.is_on() {
            return self.wait().await;
        }
        Err(self.refusal(full))
    }

    /// The spawn has its sandbox: the next may try.
    pub(super) fn leave(&mut self) {
        if self.slot.take().is_some() {
            let owner = self.owner;
            self.state
                .publish_limit(LimitEvent::SpawnDequeued { owner });
        }
    }

    async fn wait(&mut self) -> Result<(), Error> {
        let (state, owner) = (self.state, self.owner);
        if self.slot.is_none() {
            let left = admission::left(state, owner);
            let slot = state.queue.join(owner, left);
            self.slot = Some(slot.map_err(|refusal| match refusal {
                QueueRefusal::Full => self.refusal(Full::All),
                QueueRefusal::OfOwner => self.refusal(Full::OfOwner),
            })?);
            state.publish_limit(LimitEvent::SpawnQueued { owner });
        }
        let slot = self.slot.as_mut().expect("it was just taken");
        let Err(ended) = slot.wait(&state.registry.freed).await else {
            return Ok(());
        };
        self.slot = None;
        match ended {
            WaitEnd::Closed => Err(Error::shutting_down()),
            WaitEnd::TimedOut => {
                state.publish_limit(LimitEvent::SpawnQueueTimeout { owner });
                let waited = stacyvm_types::GoDuration::from(state.queue.timeout());
                let refusal = self.refusal(Full::All);
                Err(admission::full(
                    state,
                    format!("no room within {waited}: {refusal}"),
                ))
            }
        }
    }

    fn refusal(&self, full: Full) -> Error {
        let settings = self.state.settings_for(self.owner);
        admission::full(self.state, admission::reason(&settings, full))
    }
}
