//! Instants as the API writes them: RFC 3339, UTC, ending in `Z`.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// An instant in UTC. Written as RFC 3339 with a trailing `Z`, to the microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The machine's present time, cut to microseconds so that what is stored equals what was answered.
    pub fn now() -> Self {
        Self::from_unix_micros(jiff::Timestamp::now().as_microsecond())
    }

    /// From microseconds since 1970-01-01T00:00:00Z. Values outside the calendar (years -9999 to
    /// 9999) become its nearest end.
    pub fn from_unix_micros(micros: i64) -> Self {
        Self(
            jiff::Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 {
                jiff::Timestamp::MIN
            } else {
                jiff::Timestamp::MAX
            }),
        )
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn unix_micros(self) -> i64 {
        self.0.as_microsecond()
    }

    /// This instant plus `duration`; stops at the calendar's end instead of overflowing.
    pub fn saturating_add(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_unix_micros(self.unix_micros().saturating_add(micros))
    }

    /// How long after `earlier` this instant is; zero when it is before.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(
            u64::try_from(self.unix_micros().saturating_sub(earlier.unix_micros())).unwrap_or(0),
        )
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self::from_unix_micros(0).saturating_add(after),
            Err(before) => {
                let micros = i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX);
                Self::from_unix_micros(-micros)
            }
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_rfc_3339_with_z() {
        let time = Timestamp::from_unix_micros(1_700_000_000_000_000);
        assert_eq!(time.to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(
            serde_json::to_string(&time).unwrap(),
            "\"2023-11-14T22:13:20Z\""
        );
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        let end = Timestamp::from_unix_micros(i64::MAX);
        assert_eq!(end.saturating_add(Duration::from_secs(1)), end);
        assert_eq!(
            Timestamp::from_unix_micros(0).saturating_since(end),
            Duration::ZERO
        );
    }
}
