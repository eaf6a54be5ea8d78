//! Names of previews: `{port}-{id}` below the preview domain.
//!
//! Pure. Its rule: names are compared as browsers compare them, without case and without the dot
//! that may end them. A name that only looks like a preview's is refused, and never the API's.

use std::fmt;
use std::net::Ipv6Addr;
use std::num::NonZeroU16;
use std::str::FromStr;

use stacyvm_types::SandboxId;

/// A port of a sandbox: `3000-sb-0123abcd`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PreviewName {
    /// The TCP port inside.
    pub port: NonZeroU16,
    /// The sandbox.
    pub sandbox: SandboxId,
}

/// Why a text names no port of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text has another form.
    #[error("a preview is named by a port, a hyphen and a sandbox's id: 3000-sb-0123abcd")]
    Form,
    /// The port is not 1 to 65535, or has leading zeros.
    #[error("a preview's port is a number from 1 to 65535")]
    Port,
}

/// Parses a port, which has no leading zeros and no sign.
pub(crate) fn port(digits: &str) -> Result<NonZeroU16, NameError> {
    if digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NameError::Port);
    }
    digits.parse().map_err(|_| NameError::Port)
}

impl FromStr for PreviewName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (digits, sandbox) = text.split_once('-').ok_or(NameError::Form)?;
        let sandbox = sandbox.parse().map_err(|_| NameError::Form)?;
        Ok(Self {
            port: port(digits)?,
            sandbox,
        })
    }
}

impl fmt::Display for PreviewName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.port, self.sandbox)
    }
}

/// What a `Host` header names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostName {
    /// A port of a sandbox.
    Preview(PreviewName),
    /// A name that looks like a preview's and is none, or is below another domain.
    Refused(NameError),
    /// Another name, or an address.
    Other,
}

/// The domain below which previews have their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(String);

impl Domain {
    /// The domain of the configuration's `preview_domain`, whose port is ignored.
    pub fn new(preview_domain: &str) -> Self {
        let name = preview_domain.trim().to_ascii_lowercase();
        let name = match name.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => &name,
        };
        Self(name.trim_matches('.').to_owned())
    }

    /// The domain, in lower case and without a port.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses an authority: `name`, `name:port`, `[address]:port`.
    pub fn parse(&self, authority: &str) -> HostName {
        if let Some(rest) = authority.strip_prefix('[') {
            let address = rest.split_once(']').map(|(address, _)| address);
            return match address.map(str::parse::<Ipv6Addr>) {
                Some(Ok(_)) => HostName::Other,
                _ => HostName::Refused(NameError::Form),
            };
        }
        if authority.contains('@') {
            return HostName::Refused(NameError::Form);
        }
        let name = authority.split(':').next().unwrap_or(authority);
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let (label, domain) = name.split_once('.').unwrap_or((&name, ""));
        if domain.split('.').any(looks_like_preview) {
            return HostName::Refused(NameError::Form);
        }
        if !looks_like_preview(label) {
            return HostName::Other;
        }
        if domain != self.0 {
            return HostName::Refused(NameError::Form);
        }
        match label.parse() {
            Ok(name) => HostName::Preview(name),
            Err(error) => HostName::Refused(error),
        }
    }
}

/// Whether a label has the form that clients build for a sandbox's port.
fn looks_like_preview(label: &str) -> bool {
    label
        .split_once("-sb-")
        .is_some_and(|(port, _)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_preview_is_known_however_its_name_is_written() {
        let domain = Domain::new("Box.Example.org:7423");
        assert_eq!(domain.as_str(), "box.example.org");
        for authority in [
            "3000-sb-0123abcd.box.example.org",
            "3000-sb-0123abcd.box.example.org.",
            "3000-sb-0123abcd.box.example.org:80",
            "3000-sb-0123abcd.box.example.org.:7423",
            "3000-SB-0123ABCD.BOX.example.ORG:1",
        ] {
            let HostName::Preview(name) = domain.parse(authority) else {
                panic!("{authority}");
            };
            assert_eq!(name.to_string(), "3000-sb-0123abcd");
        }
    }

    #[test]
    fn what_only_looks_like_a_preview_is_refused() {
        let domain = Domain::new("localhost");
        for authority in [
            "0-sb-0123abcd.localhost",
            "65536-sb-0123abcd.localhost",
            "03000-sb-0123abcd.localhost",
            "3000-sb-0123abc.localhost",
            "3000-sb-0123abcg.localhost",
            "3000-sb-0123abcd.localhost.evil.example",
            "3000-sb-0123abcd.evil.example",
            "3000-sb-0123abcd",
            "3000-sb-.localhost",
            "x.3000-sb-0123abcd.localhost",
            "[not-an-address]",
            "[::1",
            "user@3000-sb-0123abcd.localhost",
            "user@localhost",
        ] {
            assert!(
                matches!(domain.parse(authority), HostName::Refused(_)),
                "{authority}"
            );
        }
        for authority in [
            "localhost:7423",
            "127.0.0.1",
            "[::1]:7423",
            "app.localhost",
            "sb-0123abcd.localhost",
            "x-sb-0123abcd.localhost",
            "-sb-0123abcd.localhost",
            "",
        ] {
            assert_eq!(domain.parse(authority), HostName::Other, "{authority}");
        }
    }

    proptest::proptest! {
        /// No text breaks the judge, and what it takes for a preview is written back as one.
        #[test]
        fn any_text_is_judged(text in ".{0,60}") {
            let domain = Domain::new("localhost");
            if let HostName::Preview(name) = domain.parse(&text) {
                let again = format!("{name}.localhost");
                proptest::prop_assert_eq!(domain.parse(&again), HostName::Preview(name));
            }
        }
    }
}
