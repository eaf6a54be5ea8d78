//! What providers tell of their own accord about their boxes: most of it becomes an event at once;
//! what changes a sandbox's state goes to its owner, who alone says so.

use std::sync::Arc;

use stacyvm_provider::{BoxState, Notice};
use stacyvm_types::{EventData, EventType, SandboxId};
use tokio::sync::mpsc;

use crate::lifecycle::Observed;
use crate::sandbox::Command;
use crate::shared::Shared;

/// Passes on what one provider tells, until it has nothing more to tell.
pub(crate) async fn follow(shared: Arc<Shared>, mut notices: mpsc::Receiver<Notice>) {
    loop {
        let notice = tokio::select! {
            () = shared.stop.cancelled() => return,
            notice = notices.recv() => notice,
        };
        let Some(notice) = notice else { return };
        let (id, news) = news(notice);
        // One that is gone meanwhile has no owner to tell.
        let Some(entry) = shared.registry.get(&id) else {
            continue;
        };
        match news {
            News::Event(kind, data) => shared.events.of(&entry, kind, data),
            News::Seen(state) => {
                let command = Command::Seen {
                    observed: Observed::Box(state),
                    as_of: entry.add_news(),
                };
                // An owner with a full queue is busy; the next look at the backend tells it again.
                let _ = entry.commands.try_send(command);
            }
        }
    }
}

/// What a notice is for its sandbox.
enum News {
    /// Something to tell whoever follows.
    Event(EventType, EventData),
    /// What its box does now, for its owner, who tells when that is a change.
    Seen(BoxState),
}

fn news(notice: Notice) -> (SandboxId, News) {
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
            (id, News::Event(EventType::NetworkRefused, data))
        }
        Notice::RefusedMore { id, count } => {
            let data = none().with("count", count);
            (id, News::Event(EventType::NetworkRefused, data))
        }
        Notice::LimitReached { id, limit } => {
            let data = none().with("limit", limit);
            (id, News::Event(EventType::ResourceLimit, data))
        }
        Notice::Paused { id } => (id, News::Seen(BoxState::Paused)),
        Notice::Resumed { id } => (id, News::Seen(BoxState::Running)),
    }
}
