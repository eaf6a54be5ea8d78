//! What a spawn does that finds no room: wait in line, or be refused.

use stacyvm_types::OwnerId;

use crate::notice::Notice;
use crate::queue::{Ended, NoPlace, Place};
use crate::registry::Full;
use crate::shared::Shared;
use crate::{Error, admission};

/// One spawn's way to a free seat.
pub(super) struct Line<'a> {
    shared: &'a Shared,
    owner: Option<&'a OwnerId>,
    place: Option<Place<'a>>,
}

impl<'a> Line<'a> {
    pub(super) fn new(shared: &'a Shared, owner: Option<&'a OwnerId>) -> Self {
        Self {
            shared,
            owner,
            place: None,
        }
    }

    /// Before the first try: who came earlier goes first.
    pub(super) async fn behind_others(&mut self) -> Result<(), Error> {
        if self.shared.queue.is_occupied() {
            return self.wait().await;
        }
        Ok(())
    }

    /// After a try that found no room; returns when another one is worth it.
    pub(super) async fn after(&mut self, full: Full) -> Result<(), Error> {
        if full == Full::All && self.shared.queue.is_on() {
            return self.wait().await;
        }
        Err(self.refusal(full))
    }

    /// The seat is taken: the next may try.
    pub(super) fn leave(&mut self) {
        if self.place.take().is_some() {
            let owner = self.owner;
            self.shared.notice(Notice::SpawnDequeued { owner });
        }
    }

    async fn wait(&mut self) -> Result<(), Error> {
        let (shared, owner) = (self.shared, self.owner);
        if self.place.is_none() {
            let left = admission::left(shared, owner);
            let place = shared.queue.join(owner, left);
            self.place = Some(place.map_err(|no_place| match no_place {
                NoPlace::Full => self.refusal(Full::All),
                NoPlace::OfOwner => self.refusal(Full::OfOwner),
            })?);
            shared.notice(Notice::SpawnQueued { owner });
        }
        let place = self.place.as_mut().expect("it was just taken");
        let Err(ended) = place.wait(&shared.registry.freed).await else {
            return Ok(());
        };
        self.place = None;
        match ended {
            Ended::Closed => Err(Error::shutting_down()),
            Ended::TimedOut => {
                shared.notice(Notice::SpawnQueueTimeout { owner });
                let waited = stacyvm_types::GoDuration::from(shared.queue.timeout());
                let refusal = self.refusal(Full::All);
                Err(admission::full(
                    shared,
                    format!("no room within {waited}: {refusal}"),
                ))
            }
        }
    }

    fn refusal(&self, full: Full) -> Error {
        let settings = self.shared.settings_for(self.owner);
        admission::full(self.shared, admission::reason(&settings, full))
    }
}
