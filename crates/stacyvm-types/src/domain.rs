//! Names of servers, as egress rules give them.

use std::fmt;
use std::str::FromStr;

/// The longest name, in bytes without a final dot (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;
/// The longest part of a name between two dots.
const MAX_LABEL: usize = 63;

/// Why a text is no pattern of names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid domain {text:?}: {reason}")]
pub struct ParseDomainError {
    text: String,
    reason: &'static str,
}

/// One name, or `*.` and a name for every name below it at any depth. Lower case, without a final
/// dot; names of other scripts in their ASCII form (`xn--…`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainPattern {
    /// Without `*.`.
    name: String,
    /// Whether names below are meant, and not the name itself.
    below: bool,
}

impl DomainPattern {
    /// Whether a name, in any case and with or without a final dot, is meant.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        if !self.below {
            return name.eq_ignore_ascii_case(&self.name);
        }
        let Some(cut) = name.len().checked_sub(self.name.len() + 1) else {
            return false;
        };
        // A cut inside a character is no name anyway.
        let (Some(front), Some(back)) = (name.get(..cut), name.get(cut + 1..)) else {
            return false;
        };
        !front.is_empty() && name.as_bytes()[cut] == b'.' && back.eq_ignore_ascii_case(&self.name)
    }
}

impl FromStr for DomainPattern {
    type Err = ParseDomainError;

    fn from_str(text: &str) -> Result<Self, ParseDomainError> {
        let refuse = |reason| {
            Err(ParseDomainError {
                text: text.chars().take(80).collect(),
                reason,
            })
        };
        let (below, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() || name.len() > MAX_NAME {
            return refuse("a name has 1 to 253 bytes");
        }
        if name.contains('*') {
            return refuse("\"*\" may only stand alone before the first dot");
        }
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= MAX_LABEL
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if !name.split('.').all(label) {
            return refuse(
                "its parts have 1 to 63 letters, digits, \"-\" and \"_\"; write other scripts as xn--…, and no port or path",
            );
        }
        // No name of a server ends in a number: that is how addresses look (RFC 3696, section 2).
        let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        if name.rsplit('.').next().is_some_and(numeric) {
            return refuse(
                "an address is no name; open ranges with allow_cidrs in the configuration",
            );
        }
        Ok(Self {
            name: name.to_ascii_lowercase(),
            below,
        })
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.below {
            f.write_str("*.")?;
        }
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        pattern.parse::<DomainPattern>().unwrap().matches(name)
    }

    #[test]
    fn a_name_is_itself_in_any_case_and_a_star_is_what_is_below() {
        assert!(matches("Example.org", "eXample.ORG."));
        assert!(!matches("example.org", "www.example.org"));
        assert!(matches("*.example.org", "a.b.example.org"));
        for other in [
            "example.org",
            ".example.org",
            "notexample.org",
            "a.example.org.evil.net",
            "",
            "é.example.or",
        ] {
            assert!(!matches("*.example.org", other), "{other:?}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for wrong in [
            "",
            ".",
            "*",
            "*.",
            "a.*.org",
            "**.org",
            "a..b",
            "-a.org",
            "a-.org",
            "example.org:443",
            "https://example.org",
            "10.0.0.1",
            "*.0.0.1",
            "::1",
            "é.org",
            "a b.org",
        ] {
            assert!(wrong.parse::<DomainPattern>().is_err(), "{wrong:?}");
        }
        assert_eq!(
            "*.EXAMPLE.org."
                .parse::<DomainPattern>()
                .unwrap()
                .to_string(),
            "*.example.org"
        );
    }
}
