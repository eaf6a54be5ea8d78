//! Durations in the syntax of Go's `time.ParseDuration` and `Duration.String`
//! (source: the Go standard library's documentation of package `time`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {text:?}: {reason}, write it like 30s, 5m or 1h30m")]
pub struct ParseDurationError {
    text: String,
    reason: &'static str,
}

/// A signed length of time with nanosecond steps, at most about 292 years either way.
///
/// Signed, because a request may carry `-5s` and deserves to hear that it is negative, not that
/// it is malformed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct GoDuration {
    nanos: i64,
}

impl GoDuration {
    /// No time at all.
    pub const ZERO: Self = Self { nanos: 0 };

    /// From nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self { nanos }
    }

    /// From whole seconds; stops at the longest duration.
    pub const fn from_secs(secs: i64) -> Self {
        Self {
            nanos: secs.saturating_mul(1_000_000_000),
        }
    }

    /// Nanoseconds.
    pub const fn nanos(self) -> i64 {
        self.nanos
    }

    /// Whether it is longer than nothing.
    pub const fn is_positive(self) -> bool {
        self.nanos > 0
    }

    /// As an unsigned duration; negative ones become zero.
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanos).unwrap_or(0))
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self {
            nanos: i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX),
        }
    }
}

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, ParseDurationError> {
        let fail = |reason| ParseDurationError {
            text: text.chars().take(64).collect(),
            reason,
        };
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(fail("it is empty"));
        }
        let mut total: u128 = 0;
        while !rest.is_empty() {
            let number_end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            let (number, after) = rest.split_at(number_end);
            let unit_end = after
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            if unit.is_empty() {
                return Err(fail("a number has no unit"));
            }
            let scale = UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, scale)| *scale)
                .ok_or_else(|| fail("the units are ns, us, ms, s, m and h"))?;
            total += scaled(number, scale).ok_or_else(|| fail("a number is malformed"))?;
            if total > i64::MAX as u128 {
                return Err(fail("it is too long"));
            }
            rest = after;
        }
        let nanos = i64::try_from(total).map_err(|_| fail("it is too long"))?;
        Ok(Self {
            nanos: if negative { -nanos } else { nanos },
        })
    }
}

/// `number` (digits with at most one point) times `scale`, rounded down; none when malformed or huge.
fn scaled(number: &str, scale: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let fraction = &fraction[..fraction.len().min(18)];
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let part = part * u128::from(scale) / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(whole * u128::from(scale) + part)
}

impl TryFrom<String> for GoDuration {
    type Error = ParseDurationError;

    fn try_from(text: String) -> Result<Self, ParseDurationError> {
        text.parse()
    }
}

impl From<GoDuration> for String {
    fn from(duration: GoDuration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.nanos.unsigned_abs();
        if total == 0 {
            return f.write_str("0s");
        }
        if self.nanos < 0 {
            f.write_str("-")?;
        }
        if total < 1_000_000_000 {
            let (unit, scale) = match total {
                0..1_000 => ("ns", 1),
                1_000..1_000_000 => ("µs", 1_000),
                _ => ("ms", 1_000_000),
            };
            return write!(f, "{}{unit}", decimal(total, scale));
        }
        let minutes = total / 60_000_000_000;
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes >= 1 {
            write!(f, "{}m", minutes % 60)?;
        }
        write!(f, "{}s", decimal(total % 60_000_000_000, 1_000_000_000))
    }
}

/// `value / scale` in decimal, without trailing zeros.
fn decimal(value: u64, scale: u64) -> String {
    let (whole, part) = (value / scale, value % scale);
    if part == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{part:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_go_reads() {
        let cases: [(&str, i64); 9] = [
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("300ms", 300_000_000),
            ("1us", 1_000),
            ("2µs", 2_000),
            ("-5s", -5_000_000_000),
            ("0", 0),
            (".5s", 500_000_000),
            ("1m1.25s", 61_250_000_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(
                text.parse::<GoDuration>().map(GoDuration::nanos),
                Ok(nanos),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in [
            "",
            "1d",
            "10",
            "30 m",
            " 30m",
            "m",
            "1.2.3s",
            "-",
            "1h-5m",
            ".",
            ".s",
            "999999999h",
            "1e3s",
            "٣s",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn writes_as_go_writes() {
        let cases = [
            (90_000_000_000, "1m30s"),
            (86_400_000_000_000, "24h0m0s"),
            (12_300_000, "12.3ms"),
            (0, "0s"),
            (1_500, "1.5µs"),
            (999, "999ns"),
            (-1_000_000_000, "-1s"),
            (3_600_000_000_001, "1h0m0.000000001s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(GoDuration::from_nanos(nanos).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_it_writes_it_reads(nanos in (i64::MIN + 1)..i64::MAX) {
            let duration = GoDuration::from_nanos(nanos);
            prop_assert_eq!(duration.to_string().parse::<GoDuration>(), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
