//! The engine's words for what happens to containers.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use bollard::models::EventMessage;
use stacyvm_types::{SandboxId, Timestamp};

use crate::names::Names;

/// What happened to whose container.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) id: SandboxId,
    pub(super) happened: Happened,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happened {
    Paused,
    Resumed,
    /// The kernel ended a process in it for want of memory.
    OutOfMemory,
    Died {
        code: Option<i64>,
    },
    /// It was removed, or is another's now.
    Gone,
}

/// Which events are asked for.
pub(super) fn filters(names: &Names) -> HashMap<String, Vec<String>> {
    let mut filters = names.filter();
    let words = |all: &[&str]| all.iter().map(|&word| word.to_owned()).collect();
    filters.insert("type".to_owned(), words(&["container"]));
    let all = ["die", "oom", "pause", "unpause", "destroy", "rename"];
    filters.insert("event".to_owned(), words(&all));
    filters
}

/// What an event says of a sandbox of ours; none for everything else.
pub(super) fn read(event: EventMessage, names: &Names) -> Option<Told> {
    let attributes = event.actor?.attributes?;
    let attribute = |name: &str| attributes.get(name).map(String::as_str);
    let name = match event.action.as_deref()? {
        // Under its new name nobody waits for it yet.
        "rename" => attribute("oldName")?,
        _ => attribute("name")?,
    };
    let happened = match event.action.as_deref()? {
        "pause" => Happened::Paused,
        "unpause" => Happened::Resumed,
        "oom" => Happened::OutOfMemory,
        "die" => Happened::Died {
            code: attribute("exitCode").and_then(|code| code.parse().ok()),
        },
        "destroy" | "rename" => Happened::Gone,
        _ => return None,
    };
    Some(Told {
        id: names.sandbox_of(name)?,
        happened,
    })
}

/// The engine's word for its time, read; none when it cannot be.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}

/// From when on events are asked for, in the engine's words.
pub(super) fn since(time: Timestamp) -> String {
    let micros = time.unix_micros().max(0);
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// Between 0 and 1, for jitter.
pub(super) fn random() -> f64 {
    // The keys of each are random; 32 bits are exact in a float.
    (RandomState::new().hash_one(0) >> 32) as f64 / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, attributes: &[(&str, &str)]) -> EventMessage {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        EventMessage {
            action: Some(action.to_owned()),
            actor: Some(bollard::models::EventActor {
                id: Some("abc".to_owned()),
                attributes: Some(attributes.iter().map(owned).collect()),
            }),
            ..EventMessage::default()
        }
    }

    #[test]
    fn events_of_sandboxes_are_read_and_all_others_are_not() {
        let names = Names::new("t");
        let id = SandboxId::from_u32(7);
        let name = names.container(&id);
        let read = |action: &str, attributes: &[(&str, &str)]| {
            read(event(action, attributes), &names).map(|told| {
                assert_eq!(told.id, id);
                told.happened
            })
        };
        for (action, expected) in [
            ("pause", Some(Happened::Paused)),
            ("unpause", Some(Happened::Resumed)),
            ("oom", Some(Happened::OutOfMemory)),
            ("destroy", Some(Happened::Gone)),
            ("die", Some(Happened::Died { code: None })),
            ("exec_create: sh", None),
        ] {
            assert_eq!(read(action, &[("name", &name)]), expected, "{action}");
            assert_eq!(read(action, &[("name", "stranger")]), None, "{action}");
        }
        let died = read("die", &[("name", &name), ("exitCode", "137")]);
        assert_eq!(died, Some(Happened::Died { code: Some(137) }));
        let away = [("name", "other"), ("oldName", name.as_str())];
        assert_eq!(read("rename", &away), Some(Happened::Gone));
        let here = [("name", name.as_str()), ("oldName", "/warm")];
        assert_eq!(read("rename", &here), None);
    }

    #[test]
    fn the_engines_time_comes_back_as_it_wants_it() {
        let at = time("2026-11-26T15:11:04.056834559+01:00").unwrap();
        assert_eq!(since(at), "1795702264.056834");
        assert_eq!(time("yesterday"), None);
    }

    #[test]
    fn jitter_is_between_nothing_and_one() {
        assert!(
            (0..100)
                .map(|_| random())
                .all(|value| (0.0..=1.0).contains(&value))
        );
    }
}
