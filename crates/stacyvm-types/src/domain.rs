//! Host names, and patterns of host names that a sandbox may reach.
//!
//! Owns the syntax of names and the meaning of patterns; resolves nothing. Its one rule: a text that
//! some resolver might read as an address (`2130706433`, `127.1`, `0x7f.1`) is not a name.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes (RFC 1035, without the root's own byte).
const MAX_NAME_BYTES: usize = 253;
/// The longest part of a name between two dots, in bytes.
const MAX_LABEL_BYTES: usize = 63;

/// Why a text is neither a host name nor an address. A hint to the way out is part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDomainError {
    /// Nothing is there.
    #[error("a domain is empty: write a host name such as \"example.com\"")]
    Empty,
    /// The whole name or a label of it is too long.
    #[error("a domain has at most 253 bytes, and at most 63 between two dots")]
    TooLong,
    /// Letters beyond ASCII.
    #[error("a domain has only ASCII letters: write an international name as punycode (\"xn--…\")")]
    NotAscii,
    /// It has parts of a URL.
    #[error("a domain is a host name alone: leave the scheme, the port and the path out")]
    NotAName,
    /// A label is empty, has a character that no name has, or a hyphen at an end.
    #[error(
        "a domain is made of letters, digits, hyphens and dots, as in \"example.com\", and no part \
         of it is empty or has a hyphen at an end"
    )]
    Label,
    /// It ends in a number and is not an address.
    #[error(
        "a domain that ends in a number would be taken for an address: write all of the address"
    )]
    Numeric,
    /// A star somewhere else than at the start, or alone.
    #[error(
        "a star stands only at the start, as in \"*.example.com\", which covers every name below \
         example.com but not example.com itself"
    )]
    Star,
}

/// A host: a name in lower case without a dot at its end, or an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(Host);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    Name(String),
    Address(IpAddr),
}

impl HostName {
    /// The name; none for an address.
    pub fn name(&self) -> Option<&str> {
        match &self.0 {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        }
    }

    /// The address; none for a name.
    pub fn address(&self) -> Option<IpAddr> {
        match self.0 {
            Host::Name(_) => None,
            Host::Address(address) => Some(address),
        }
    }
}

impl From<IpAddr> for HostName {
    fn from(address: IpAddr) -> Self {
        Self(Host::Address(address.to_canonical()))
    }
}

impl FromStr for HostName {
    type Err = ParseDomainError;

    /// Upper case is lowered, one dot at the end is dropped, brackets around an IPv6 address are
    /// taken off; an IPv4 address written as an IPv6 one becomes what it is.
    fn from_str(text: &str) -> Result<Self, ParseDomainError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let inside = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(inside) = inside {
            let address = inside.parse::<Ipv6Addr>();
            return address
                .map(|address| IpAddr::V6(address).into())
                .map_err(|_| ParseDomainError::NotAName);
        }
        name(text).map(|name| Self(Host::Name(name)))
    }
}

/// Checks a name and brings it into its one form.
fn name(text: &str) -> Result<String, ParseDomainError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err(ParseDomainError::Empty);
    }
    if !text.is_ascii() {
        return Err(ParseDomainError::NotAscii);
    }
    if text.contains('*') {
        return Err(ParseDomainError::Star);
    }
    if text.contains([':', '/', '@', '?', '#']) {
        return Err(ParseDomainError::NotAName);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(ParseDomainError::TooLong);
    }
    let mut last = "";
    for label in text.split('.') {
        if label.len() > MAX_LABEL_BYTES {
            return Err(ParseDomainError::TooLong);
        }
        // Underscores are in no host name by the letter and in many in practice.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if label.is_empty()
            || !label.bytes().all(allowed)
            || label.starts_with('-')
            || label.ends_with('-')
        {
            return Err(ParseDomainError::Label);
        }
        last = label;
    }
    if is_numeric(last) {
        return Err(ParseDomainError::Numeric);
    }
    Ok(text.to_ascii_lowercase())
}

/// Whether a label is a number to those who read addresses generously: decimal, octal or
/// hexadecimal.
fn is_numeric(label: &str) -> bool {
    let hexadecimal = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// Which hosts a sandbox may reach: one name, every name below one, or one address.
///
/// `example.com` covers itself alone. `*.example.com` covers `a.example.com` and
/// `a.b.example.com`, not `example.com`. An address covers itself, written in whatever way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainPattern(Pattern);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Pattern {
    Exactly(HostName),
    /// Without the star and its dot.
    Below(String),
}

impl DomainPattern {
    /// Whether this host is covered.
    pub fn matches(&self, host: &HostName) -> bool {
        match &self.0 {
            Pattern::Exactly(this) => this == host,
            Pattern::Below(suffix) => host
                .name()
                .and_then(|name| name.strip_suffix(suffix.as_str()))
                // What is left must end at a dot: "notexample.com" is not below "example.com".
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

impl FromStr for DomainPattern {
    type Err = ParseDomainError;

    /// Surrounding white space is dropped first.
    fn from_str(text: &str) -> Result<Self, ParseDomainError> {
        let text = text.trim();
        if text == "*" {
            return Err(ParseDomainError::Star);
        }
        match text.strip_prefix("*.") {
            Some(suffix) => name(suffix).map(|suffix| Self(Pattern::Below(suffix))),
            None => text.parse().map(|host| Self(Pattern::Exactly(host))),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Host::Name(name) => f.write_str(name),
            Host::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Pattern::Exactly(host) => host.fmt(f),
            Pattern::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// Both are texts on the wire.
macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = ParseDomainError;

            fn try_from(text: String) -> Result<Self, ParseDomainError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}

as_text! { HostName DomainPattern }

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(pattern: &str, host: &str) -> bool {
        let host = host.parse().unwrap();
        pattern.parse::<DomainPattern>().unwrap().matches(&host)
    }

    #[test]
    fn one_name_covers_itself_however_it_is_written() {
        for host in ["example.com", "EXAMPLE.com", "example.com."] {
            assert!(covers("example.com", host), "{host}");
            assert!(covers(" Example.COM. ", host), "{host}");
        }
        for host in [
            "a.example.com",
            "notexample.com",
            "example.com.evil.org",
            "example.co",
            "com",
        ] {
            assert!(!covers("example.com", host), "{host}");
        }
    }

    #[test]
    fn a_star_covers_every_depth_and_nothing_beside() {
        for host in ["a.example.com", "b.a.example.com", "A.Example.Com."] {
            assert!(covers("*.example.com", host), "{host}");
        }
        for host in [
            "example.com",
            "notexample.com",
            "a.notexample.com",
            "a.example.com.evil.org",
            "a.example.org",
        ] {
            assert!(!covers("*.example.com", host), "{host}");
        }
    }

    #[test]
    fn addresses_are_covered_only_when_listed() {
        assert!(covers("192.0.2.1", "192.0.2.1"));
        assert!(covers("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(covers("[2001:db8::1]", "2001:DB8:0::1"));
        assert!(!covers("192.0.2.1", "192.0.2.10"));
        assert!(!covers("*.example.com", "192.0.2.1"));
        assert!(!covers("*.com", "::1"));
    }

    #[test]
    fn every_mistake_is_named() {
        let label = "a".repeat(64);
        let long = format!("{}.com", "a.".repeat(130));
        for (text, error) in [
            ("", ParseDomainError::Empty),
            (".", ParseDomainError::Empty),
            ("*.", ParseDomainError::Empty),
            ("*", ParseDomainError::Star),
            ("a.*.com", ParseDomainError::Star),
            ("*example.com", ParseDomainError::Star),
            ("*.*.com", ParseDomainError::Star),
            ("bücher.example", ParseDomainError::NotAscii),
            ("https://example.com", ParseDomainError::NotAName),
            ("example.com:443", ParseDomainError::NotAName),
            ("example.com/x", ParseDomainError::NotAName),
            ("user@example.com", ParseDomainError::NotAName),
            ("[example.com]", ParseDomainError::NotAName),
            ("a..com", ParseDomainError::Label),
            (".example.com", ParseDomainError::Label),
            ("example.com..", ParseDomainError::Label),
            ("-a.com", ParseDomainError::Label),
            ("a-.com", ParseDomainError::Label),
            ("a b.com", ParseDomainError::Label),
            ("a\0.com", ParseDomainError::Label),
            ("127.1", ParseDomainError::Numeric),
            ("2130706433", ParseDomainError::Numeric),
            ("0x7f000001", ParseDomainError::Numeric),
            ("127.0.0.0x1", ParseDomainError::Numeric),
            ("127.0.0.01", ParseDomainError::Numeric),
            ("*.0.0.1", ParseDomainError::Numeric),
            (label.as_str(), ParseDomainError::TooLong),
            (long.as_str(), ParseDomainError::TooLong),
        ] {
            assert_eq!(text.parse::<DomainPattern>(), Err(error), "{text:?}");
        }
        assert!("xn--bcher-kva.example".parse::<DomainPattern>().is_ok());
        assert!("_dmarc.example.com".parse::<DomainPattern>().is_ok());
    }

    #[test]
    fn they_are_texts_on_the_wire() {
        let pattern: DomainPattern = serde_json::from_str("\"*.Example.com\"").unwrap();
        assert_eq!(
            serde_json::to_string(&pattern).unwrap(),
            "\"*.example.com\""
        );
        assert!(serde_json::from_str::<DomainPattern>("\"a b\"").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(text in ".{0,40}|(\\*\\.)?[a-zA-Z0-9._-]{1,40}") {
            if let Ok(pattern) = text.parse::<DomainPattern>() {
                prop_assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
            }
            if let Ok(host) = text.parse::<HostName>() {
                prop_assert_eq!(host.to_string().parse(), Ok(host.clone()));
                let exact: DomainPattern = host.to_string().parse().unwrap();
                prop_assert!(exact.matches(&host));
            }
        }

        #[test]
        fn only_what_stands_below_matches_a_star(
            below in "[a-z]{1,5}(\\.[a-z]{1,5}){0,3}",
            name in "[a-z]{1,8}\\.[a-z]{2,4}",
        ) {
            let pattern: DomainPattern = format!("*.{name}").parse().unwrap();
            let host = |text: String| text.parse::<HostName>().unwrap();
            let inside = host(format!("{below}.{name}"));
            let glued = host(format!("{below}{name}"));
            let outside = host(format!("{name}.{below}9"));
            prop_assert!(pattern.matches(&inside));
            prop_assert!(!pattern.matches(&host(name)));
            prop_assert!(!pattern.matches(&glued));
            prop_assert!(!pattern.matches(&outside));
        }
    }
}
