//! How many cores something may use: whole ones, or parts of one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Processor time as a number of cores, in hundredths. On the wire a JSON number: an integer when
/// it is whole, as clients that know whole cores alone expect it, else a decimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vcpus(u32);

/// Why a text or number is not a number of cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseVcpusError {
    /// It is not a number.
    #[error("write a number of cores, such as 2 or 0.5")]
    NotANumber,
    /// Below nothing.
    #[error("must not be negative")]
    Negative,
    /// Too little for anything to run.
    #[error("must be at least 0.05")]
    TooSmall,
    /// More than any machine has.
    #[error("must not be above {}", Vcpus::MAX_CORES)]
    TooLarge,
}

impl Vcpus {
    /// No cores; as a limit it means no limit.
    pub const NONE: Self = Self(0);
    /// One core.
    pub const ONE: Self = Self(100);
    /// The smallest share that a sandbox can be given: 5 ms of every 100.
    pub const MIN: Self = Self(5);
    /// More cores than any machine has.
    pub const MAX_CORES: u32 = 4096;

    /// Whole cores.
    #[must_use]
    pub const fn whole(cores: u32) -> Self {
        Self(
            if cores > Self::MAX_CORES {
                Self::MAX_CORES
            } else {
                cores
            } * 100,
        )
    }

    /// From a number of cores; digits behind the second are rounded away. 0 is [`Vcpus::NONE`].
    ///
    /// # Errors
    /// When it is negative, above nothing but below [`Vcpus::MIN`], or above [`Vcpus::MAX_CORES`].
    pub fn from_cores(cores: f64) -> Result<Self, ParseVcpusError> {
        if cores.is_nan() {
            return Err(ParseVcpusError::NotANumber);
        }
        if cores < 0.0 {
            return Err(ParseVcpusError::Negative);
        }
        if cores > f64::from(Self::MAX_CORES) {
            return Err(ParseVcpusError::TooLarge);
        }
        // Between 0 and 409,600, so nothing is cut off.
        let hundredths = (cores * 100.0).round() as u32;
        if cores > 0.0 && hundredths < Self::MIN.0 {
            return Err(ParseVcpusError::TooSmall);
        }
        Ok(Self(hundredths))
    }

    /// The number of hundredths, as the store keeps it.
    #[must_use]
    pub const fn hundredths(self) -> u32 {
        self.0
    }

    /// From a stored number; none for one that no sandbox can have been given.
    #[must_use]
    pub const fn from_hundredths(hundredths: u32) -> Option<Self> {
        if hundredths > Self::MAX_CORES * 100 || (hundredths > 0 && hundredths < Self::MIN.0) {
            return None;
        }
        Some(Self(hundredths))
    }

    /// As a number of cores.
    #[must_use]
    pub fn cores(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Whether it is 0.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Vcpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cores())
    }
}

impl FromStr for Vcpus {
    type Err = ParseVcpusError;

    fn from_str(text: &str) -> Result<Self, ParseVcpusError> {
        let cores: f64 = text.parse().map_err(|_| ParseVcpusError::NotANumber)?;
        Self::from_cores(cores)
    }
}

impl Serialize for Vcpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(100) {
            serializer.serialize_u32(self.0 / 100)
        } else {
            serializer.serialize_f64(self.cores())
        }
    }
}

impl<'de> Deserialize<'de> for Vcpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let cores = f64::deserialize(deserializer)?;
        Self::from_cores(cores).map_err(serde::de::Error::custom)
    }
}

/// A number of cores as a request has it, not looked at yet: written without decimals where it has
/// none, so that a server which knows whole cores alone understands it.
#[allow(clippy::ref_option, reason = "serde asks for this form")]
pub(crate) fn as_asked<S: Serializer>(
    asked: &Option<f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match asked {
        None => serializer.serialize_none(),
        Some(cores) if cores.fract() == 0.0 && cores.abs() < 1e15 => {
            serializer.serialize_i64(*cores as i64)
        }
        Some(cores) => serializer.serialize_f64(*cores),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_cores_are_integers_and_parts_are_decimals() {
        for (text, back) in [
            ("2", "2"),
            ("2.0", "2"),
            ("0.5", "0.5"),
            ("0.05", "0.05"),
            ("1.25", "1.25"),
            ("0.333", "0.33"),
            ("0.29", "0.29"),
            ("0", "0"),
            ("4096", "4096"),
        ] {
            let read: Vcpus = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), back);
            assert_eq!(read.to_string(), back);
            assert_eq!(text.parse(), Ok(read));
            assert_eq!(Vcpus::from_hundredths(read.hundredths()), Some(read));
        }
        assert_eq!(Vcpus::whole(3), "3".parse().unwrap());
    }

    #[test]
    fn what_no_sandbox_can_have_is_refused() {
        for (cores, why) in [
            (-1.0, ParseVcpusError::Negative),
            (-0.001, ParseVcpusError::Negative),
            (0.001, ParseVcpusError::TooSmall),
            (0.04, ParseVcpusError::TooSmall),
            (4096.01, ParseVcpusError::TooLarge),
            (f64::INFINITY, ParseVcpusError::TooLarge),
            (f64::NAN, ParseVcpusError::NotANumber),
        ] {
            assert_eq!(Vcpus::from_cores(cores), Err(why), "{cores}");
        }
        assert!("two".parse::<Vcpus>().is_err());
        assert_eq!(Vcpus::from_hundredths(4), None);
        assert_eq!(Vcpus::from_hundredths(409_601), None);
    }
}
