//! The notices of providers about their boxes: most become an event at once; a change of a
//! sandbox's state goes to its task, which alone publishes it.

use std::sync::Arc;

use stacyvm_provider::{BoxState, Notice};
use stacyvm_types::{EventData, EventType, SandboxId};
use tokio::sync::mpsc;

use crate::lifecycle::Observed;
use crate::sandbox::command::Command;
use crate::state::OrchestratorState;

/// Passes on what one provider tells, until it has nothing more to tell.
pub(crate) async fn follow(state: Arc<OrchestratorState>, mut notices: mpsc::Receiver<Notice>) {
    loop {
        let notice = tokio::select! {
            () = state.lifetime.stop.cancelled() => return,
            notice = notices.recv() => notice,
        };
        let Some(notice) = notice else { return };
        let (id, event) = provider_event(notice);
        // A sandbox that is gone meanwhile has no task any more.
        let Some(entry) = state.registry.get(&id) else {
            continue;
        };
        match event {
            ProviderEvent::Event(kind, data) => state.events.of(&entry.facts, kind, data),
            ProviderEvent::Seen(state) => {
                let command = Command::Seen {
                    observed: Observed::Box(state),
                    as_of: entry.next_generation(),
                };
                // A task with a full queue is busy; the next comparison with the backend tells it again.
                let _ = entry.commands.try_send(command);
            }
        }
    }
}

/// What a notice means for its sandbox.
enum ProviderEvent {
    /// An event for those who follow.
    Event(EventType, EventData),
    /// The state of its box now, for its task, which publishes a change.
    Seen(BoxState),
}

fn provider_event(notice: Notice) -> (SandboxId, ProviderEvent) {
    let none = EventData::none;
    match notice {
        Notice::Refused {
            id,
            host,
            port,
            reason,
        } => {
            let data = none().with("host", host);
            let data = match port {
                Some(port) => data.with("port", u64::from(port)),
                None => data,
            };
            let data = data.with("reason", reason);
            (id, ProviderEvent::Event(EventType::NetworkRefused, data))
        }
        Notice::RefusedMore { id, count } => {
            let data = none().with("count", count);
            (id, ProviderEvent::Event(EventType::NetworkRefused, data))
        }
        Notice::LimitReached { id, limit } => {
            let data = none().with("limit", limit);
            (id, ProviderEvent::Event(EventType::ResourceLimit, data))
        }
        Notice::Paused { id } => (id, ProviderEvent::Seen(BoxState::Paused)),
        Notice::Resumed { id } => (id, ProviderEvent::Seen(BoxState::Running)),
    }
}
