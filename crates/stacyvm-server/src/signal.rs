//! Signals as clients name them: `SIGINT`, `INT`, `2`.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::error::Failure;

/// Names and numbers, of signal(7); the same on every architecture that we build for.
const NAMES: [(&str, i32); 20] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("WINCH", 28),
];

/// A signal in a request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Named {
    /// By its number.
    Number(i64),
    /// By its name.
    Name(String),
}

impl Named {
    /// Its number.
    pub(crate) fn number(&self) -> Result<i32, Failure> {
        let known = |wanted: i64| {
            NAMES
                .iter()
                .find(|(_, number)| i64::from(*number) == wanted)
                .map(|(_, number)| *number)
        };
        let found = match self {
            Self::Number(number) => known(*number),
            Self::Name(name) => {
                let upper = name.to_ascii_uppercase();
                let short = upper.strip_prefix("SIG").unwrap_or(&upper);
                let by_name = NAMES.iter().find(|(name, _)| *name == short);
                by_name
                    .map(|(_, number)| *number)
                    .or_else(|| known(name.parse().ok()?))
            }
        };
        found.ok_or_else(|| {
            Failure::bad_request("signal must be the name or number of one, like SIGINT or 2")
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_understood_and_nothing_else() {
        for text in ["\"SIGINT\"", "\"INT\"", "\"int\"", "2", "\"2\""] {
            let named: Named = serde_json::from_str(text).unwrap();
            assert_eq!(named.number().unwrap(), 2, "{text}");
        }
        for text in ["0", "-1", "65", "\"SIGNOPE\"", "\"\"", "99999999999"] {
            let named: Named = serde_json::from_str(text).unwrap();
            assert!(named.number().is_err(), "{text}");
        }
    }
}
