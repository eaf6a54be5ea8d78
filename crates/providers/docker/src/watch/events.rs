//! The engine's events about containers, read into changes of sandboxes.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use bollard::models::EventMessage;
use stacyvm_types::{SandboxId, Timestamp};

use crate::names::EngineNames;

/// One event about the container of a sandbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContainerEvent {
    pub(super) id: SandboxId,
    pub(super) change: Change,
}

/// What an event reports.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Paused,
    Resumed,
    /// The kernel killed a process in it that exceeded the memory limit.
    OutOfMemory,
    /// Its first process has ended.
    Died {
        code: Option<i64>,
    },
    /// It was removed, or renamed to another sandbox.
    Gone,
}

/// The filter for the events that are followed.
pub(super) fn filters(names: &EngineNames) -> HashMap<String, Vec<String>> {
    let mut filters = names.filter();
    let owned = |all: &[&str]| all.iter().map(|&text| text.to_owned()).collect();
    filters.insert("type".to_owned(), owned(&["container"]));
    let all = ["die", "oom", "pause", "unpause", "destroy", "rename"];
    filters.insert("event".to_owned(), owned(&all));
    filters
}

/// Reads an event about a sandbox of this server; none for every other event.
pub(super) fn read(event: EventMessage, names: &EngineNames) -> Option<ContainerEvent> {
    let attributes = event.actor?.attributes?;
    let attribute = |name: &str| attributes.get(name).map(String::as_str);
    let name = match event.action.as_deref()? {
        // The sandbox of the new name is new, so nothing waits for it yet.
        "rename" => attribute("oldName")?,
        _ => attribute("name")?,
    };
    let change = match event.action.as_deref()? {
        "pause" => Change::Paused,
        "unpause" => Change::Resumed,
        "oom" => Change::OutOfMemory,
        "die" => Change::Died {
            code: attribute("exitCode").and_then(|code| code.parse().ok()),
        },
        "destroy" | "rename" => Change::Gone,
        _ => return None,
    };
    Some(ContainerEvent {
        id: names.sandbox_of(name)?,
        change,
    })
}

/// Parses a time of the engine.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}

/// The engine's form of the time from which on events are followed.
pub(super) fn since(time: Timestamp) -> String {
    let micros = time.unix_micros().max(0);
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// A random number between 0 and 1, for jitter.
pub(super) fn random() -> f64 {
    // Every state has random keys, and a float holds 32 bits exactly.
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
        let names = EngineNames::new("t");
        let id = SandboxId::from_u32(7);
        let name = names.container(&id);
        let read = |action: &str, attributes: &[(&str, &str)]| {
            read(event(action, attributes), &names).map(|event| {
                assert_eq!(event.id, id);
                event.change
            })
        };
        for (action, expected) in [
            ("pause", Some(Change::Paused)),
            ("unpause", Some(Change::Resumed)),
            ("oom", Some(Change::OutOfMemory)),
            ("destroy", Some(Change::Gone)),
            ("die", Some(Change::Died { code: None })),
            ("exec_create: sh", None),
        ] {
            assert_eq!(read(action, &[("name", &name)]), expected, "{action}");
            assert_eq!(read(action, &[("name", "stranger")]), None, "{action}");
        }
        let died = read("die", &[("name", &name), ("exitCode", "137")]);
        assert_eq!(died, Some(Change::Died { code: Some(137) }));
        let away = [("name", "other"), ("oldName", name.as_str())];
        assert_eq!(read("rename", &away), Some(Change::Gone));
        let here = [("name", name.as_str()), ("oldName", "/warm")];
        assert_eq!(read("rename", &here), None);
    }

    #[test]
    fn the_engines_time_comes_back_as_it_wants_it() {
        let at = parse_time("2026-11-26T15:11:04.056834559+01:00").unwrap();
        assert_eq!(since(at), "1795702264.056834");
        assert_eq!(parse_time("yesterday"), None);
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
