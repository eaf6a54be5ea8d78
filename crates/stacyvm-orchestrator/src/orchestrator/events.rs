//! Following what happens.

use std::sync::Arc;

use stacyvm_types::EventId;

use crate::error::Error;
use crate::events::{EventFilter, EventScope, Subscription};
use crate::orchestrator::Orchestrator;
use crate::settings::Caller;

/// How many may follow at once: an event that pushes another out of a full ring looks at each.
const MAX_READERS: usize = 1000;

impl Orchestrator {
    /// Follows what happens, as far as `caller` may see it: what was published after `after`,
    /// when it is given, and everything from now on. `evt-0` asks for all that is kept.
    ///
    /// Events that cannot be had any more are told as one of type `events.lost`.
    ///
    /// # Errors
    /// `ResourceLimit` when as many follow already as may.
    pub fn events(
        &self,
        caller: &Caller,
        filter: EventFilter,
        after: Option<EventId>,
    ) -> Result<Subscription, Error> {
        let state = &self.state;
        if state.events.reader_count() >= MAX_READERS {
            return Err(Error::ResourceLimit(format!(
                "{MAX_READERS} readers follow the events already, which is the most"
            )));
        }
        let only = caller.owner.clone().filter(|_| state.settings.pool_mode);
        Ok(Subscription::new(
            Arc::clone(&state.events),
            EventScope { filter, only },
            after,
            state.lifetime.stop.clone(),
        ))
    }
}
