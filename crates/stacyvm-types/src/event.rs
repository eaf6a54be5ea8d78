//! Events: changes of sandboxes and of the server, as GET `/events` sends them.
//!
//! Events never carry secrets: no arguments, no values of variables, no contents, no keys.

pub(crate) mod requests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::{SandboxId, Timestamp};

/// Why a text names no event or no kind of event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseEventError {
    /// Not `evt-` and a decimal number.
    #[error("an event id is \"evt-\" followed by a decimal number")]
    Id,
    /// Neither a type nor a family of types.
    #[error("{0:?} is no event type and no family of them (like \"sandbox.*\")")]
    Type(String),
}

/// The number of an event: `evt-N`. Later events have greater numbers, also across restarts of
/// the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventId(pub u64);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evt-{}", self.0)
    }
}

impl FromStr for EventId {
    type Err = ParseEventError;

    fn from_str(text: &str) -> Result<Self, ParseEventError> {
        let digits = text.strip_prefix("evt-").ok_or(ParseEventError::Id)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseEventError::Id);
        }
        digits.parse().map(Self).map_err(|_| ParseEventError::Id)
    }
}

impl TryFrom<String> for EventId {
    type Error = ParseEventError;

    fn try_from(text: String) -> Result<Self, ParseEventError> {
        text.parse()
    }
}

impl From<EventId> for String {
    fn from(id: EventId) -> Self {
        id.to_string()
    }
}

/// One list for the variants, their names on the wire, and all of them in order.
macro_rules! event_types {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// What happened. The set is closed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum EventType {
            $($(#[doc = $doc])+ #[serde(rename = $text)] $name,)+
        }

        impl EventType {
            /// Every type.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

event_types! {
    /// A spawn was accepted and its sandbox has an id: `provider`, `image`.
    SandboxCreated = "sandbox.created",
    /// It is ready: `provider`.
    SandboxRunning = "sandbox.running",
    /// It was paused.
    SandboxPaused = "sandbox.paused",
    /// It goes on.
    SandboxResumed = "sandbox.resumed",
    /// Nothing of it is left.
    SandboxDestroyed = "sandbox.destroyed",
    /// It could not be made or destroyed, ended by itself or was lost: `state`, `reason`.
    SandboxError = "sandbox.error",
    /// Its time is over; `sandbox.destroyed` follows.
    SandboxExpired = "sandbox.expired",
    /// A command runs: `exec_id`.
    ExecStarted = "exec.started",
    /// It ended by itself, with whatever code: `exec_id`, `exit_code`, `duration`.
    ExecCompleted = "exec.completed",
    /// It did not start, or was ended: `exec_id`, `exit_code`, `duration`, `reason`.
    ExecFailed = "exec.failed",
    /// It hit its deadline: `exec_id`, `exit_code`, `duration`.
    ExecTimeout = "exec.timeout",
    /// A file or archive was written: `path`.
    FileWritten = "file.written",
    /// A file or archive was opened to be read out: `path`.
    FileRead = "file.read",
    /// A file or directory was removed: `path`.
    FileDeleted = "file.deleted",
    /// A template was made: `template`.
    TemplateCreated = "template.created",
    /// A template was changed: `template`.
    TemplateUpdated = "template.updated",
    /// A template was removed: `template`.
    TemplateDeleted = "template.deleted",
    /// A machine of the pool was started: `vm_id`.
    PoolVmCreated = "pool.vm_created",
    /// A machine of the pool was retired: `vm_id`.
    PoolVmDestroyed = "pool.vm_destroyed",
    /// A user was given a place in a machine: `vm_id`.
    PoolUserAssigned = "pool.user_assigned",
    /// A user's place in a machine was freed: `vm_id`.
    PoolUserReleased = "pool.user_released",
    /// Every machine of the pool is full.
    PoolFull = "pool.full",
    /// A check found a provider unhealthy: `provider`, `error`.
    ProviderFailed = "provider.failed",
    /// It is healthy again: `provider`.
    ProviderRecovered = "provider.recovered",
    /// A spawn waits for room.
    SpawnQueued = "spawn.queued",
    /// A waiting spawn got its room.
    SpawnDequeued = "spawn.dequeued",
    /// A waiting spawn got none in time.
    SpawnQueueTimeout = "spawn.queue_timeout",
    /// An owner got a quota.
    QuotaCreated = "quota.created",
    /// An owner's quota was changed.
    QuotaUpdated = "quota.updated",
    /// An owner's quota was removed.
    QuotaDeleted = "quota.deleted",
    /// The reconciler removed a difference: `action`, `provider`.
    ReconcileAction = "reconcile.action",
    /// A limit refused a request (`operation`, `message`) or ended a command (`operation`,
    /// `limit`, `exec_id`).
    ResourceLimit = "resource.limit",
    /// A connection that a sandbox's egress rules do not allow was refused: `host`, `port` unless it
    /// was a question about a name, `reason`; or `count` of those that are not told one by one.
    NetworkRefused = "network.refused",
    /// The egress rules of a sandbox were changed: `mode`.
    NetworkChanged = "network.changed",
    /// The reader of this stream missed events: `reason`, and `count` when it is known. Told to
    /// that reader alone, whatever its filter; the id is that of the last one missed.
    EventsLost = "events.lost",
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Some of the event types; the filter of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventTypes(u64);

impl EventTypes {
    /// Every type.
    pub const ALL: Self = Self(u64::MAX);

    /// Whether `kind` is one of them.
    pub const fn contains(self, kind: EventType) -> bool {
        self.0 & (1 << kind as u64) != 0
    }

    /// The union of both sets.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromStr for EventTypes {
    type Err = ParseEventError;

    /// A type (`exec.failed`) or a family of types (`sandbox.*`).
    fn from_str(text: &str) -> Result<Self, ParseEventError> {
        let family = text.strip_suffix('*').filter(|rest| rest.ends_with('.'));
        let mut set = Self::default();
        for kind in EventType::ALL {
            let word = kind.as_str();
            if word == text || family.is_some_and(|family| word.starts_with(family)) {
                set.0 |= 1 << *kind as u64;
            }
        }
        if set == Self::default() {
            return Err(ParseEventError::Type(text.chars().take(64).collect()));
        }
        Ok(set)
    }
}

/// One value of an event's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum EventValue {
    /// A number.
    Number(i64),
    /// A switch.
    Flag(bool),
    /// A text.
    Text(Cow<'static, str>),
}

macro_rules! event_value_from {
    ($($from:ty => $value:expr),+ $(,)?) => {$(
        impl From<$from> for EventValue {
            fn from(value: $from) -> Self {
                ($value)(value)
            }
        }
    )+};
}

event_value_from! {
    i32 => |value| Self::Number(i64::from(value)),
    u32 => |value| Self::Number(i64::from(value)),
    i64 => Self::Number,
    u64 => |value| Self::Number(i64::try_from(value).unwrap_or(i64::MAX)),
    bool => Self::Flag,
    &'static str => |value| Self::Text(Cow::Borrowed(value)),
    String => |value| Self::Text(Cow::Owned(value)),
}

/// The details of an event, by name. The documentation of each type lists its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<String, EventValue>")]
pub struct EventData(Vec<(Cow<'static, str>, EventValue)>);

impl EventData {
    /// No details.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// The same details and one more.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<EventValue>) -> Self {
        self.0.push((Cow::Borrowed(name), value.into()));
        self
    }

    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<&EventValue> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value)
    }

    /// Whether there are no details.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// About how much memory it holds, bytes.
    pub fn weight(&self) -> usize {
        let texts = self.0.iter().map(|(_, value)| match value {
            EventValue::Text(text) => text.len(),
            EventValue::Number(_) | EventValue::Flag(_) => 0,
        });
        texts.sum::<usize>() + self.0.capacity() * size_of::<(Cow<'static, str>, EventValue)>()
    }
}

impl From<BTreeMap<String, EventValue>> for EventData {
    fn from(values: BTreeMap<String, EventValue>) -> Self {
        let owned = |(name, value)| (Cow::Owned(name), value);
        Self(values.into_iter().map(owned).collect())
    }
}

impl Serialize for EventData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Its number.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "evt-7311040000000001"))]
    pub id: EventId,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The sandbox that it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "sb-1a2b3c4d"))]
    pub sandbox_id: Option<SandboxId>,
    /// When it happened.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "2026-01-31T12:00:00.5Z"))]
    pub timestamp: Timestamp,
    /// Details; their names depend on the type.
    #[serde(default, skip_serializing_if = "EventData::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<std::collections::HashMap<String, EventValue>>))]
    pub data: EventData,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_form() {
        assert_eq!("evt-70".parse(), Ok(EventId(70)));
        assert_eq!(EventId(70).to_string(), "evt-70");
        for wrong in [
            "",
            "70",
            "evt-",
            "evt--1",
            "evt-+1",
            "evt-0x1",
            "evt-99999999999999999999",
        ] {
            assert_eq!(
                wrong.parse::<EventId>(),
                Err(ParseEventError::Id),
                "{wrong}"
            );
        }
    }

    #[test]
    fn types_are_named_alone_and_by_family() {
        assert!(EventType::ALL.len() <= 64, "the set is one u64");
        for kind in EventType::ALL {
            let only: EventTypes = kind.as_str().parse().unwrap();
            let others = EventType::ALL.iter().filter(|other| *other != kind);
            assert!(only.contains(*kind), "{kind}");
            assert!(others.copied().all(|other| !only.contains(other)), "{kind}");
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
        }
        let family: EventTypes = "exec.*".parse().unwrap();
        assert!(family.contains(EventType::ExecTimeout));
        assert!(!family.contains(EventType::SandboxError));
        let both = family.and("file.read".parse().unwrap());
        assert!(both.contains(EventType::FileRead) && both.contains(EventType::ExecStarted));
        for wrong in [
            "", "*", ".*", "exec", "exec.", "exec*", "exe.*", "exec.st*", "EXEC.*",
        ] {
            assert!(wrong.parse::<EventTypes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_event_is_what_the_contract_says() {
        let mut event = Event {
            id: EventId(3),
            kind: EventType::ExecCompleted,
            sandbox_id: Some(SandboxId::from_u32(1)),
            timestamp: Timestamp::from_unix_micros(1_700_000_000_000_000),
            data: EventData::none()
                .with("exec_id", 4_u64)
                .with("duration", "2ms"),
        };
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(
            json,
            "{\"id\":\"evt-3\",\"type\":\"exec.completed\",\"sandbox_id\":\"sb-00000001\",\
             \"timestamp\":\"2023-11-14T22:13:20Z\",\"data\":{\"exec_id\":4,\"duration\":\"2ms\"}}"
        );
        let back: Event = serde_json::from_str(&json).unwrap();
        assert_eq!(back.data.get("exec_id"), Some(&EventValue::Number(4)));
        event.sandbox_id = None;
        event.data = EventData::none();
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            "{\"id\":\"evt-3\",\"type\":\"exec.completed\",\"timestamp\":\"2023-11-14T22:13:20Z\"}"
        );
    }
}
