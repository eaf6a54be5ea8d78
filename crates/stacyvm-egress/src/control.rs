//! What the provider and the egress process say to each other: one JSON value a line.
//!
//! Free to change: both come from one build, and the process ends with its provider.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use stacyvm_types::{Cidr, DomainPattern, SandboxId};

/// The longest line, in bytes.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// How the process is to work. Given once, at its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where names are resolved, UDP and TCP. One address each, never a wildcard: an answer must
    /// leave from the address that was asked. They need not exist yet.
    pub dns: Vec<SocketAddr>,
    /// Where redirected connections arrive.
    pub proxy: Vec<SocketAddr>,
    /// Name servers to ask, in this order.
    pub upstreams: Vec<SocketAddr>,
    /// Ranges that a name may lead to although they are not on the public internet.
    #[serde(default)]
    pub allow_cidrs: Vec<Cidr>,
    /// Whether sandboxes have IPv6: without it, names have no such addresses.
    #[serde(default)]
    pub ipv6: bool,
    /// Who the process becomes; none leaves it who it is.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// How much it takes on.
    #[serde(default)]
    pub limits: Limits,
}

/// A user and a group of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How much the process takes on. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Connections of all sandboxes.
    pub connections: u32,
    /// Connections of one sandbox.
    pub connections_per_sandbox: u32,
    /// Names that one sandbox may ask for each second, twice as many at once; 0 for any number.
    pub queries_per_second: u32,
    /// Questions of one sandbox that wait for an answer at the same moment.
    pub queries_per_sandbox: u32,
    /// Time for a connection to say where it wants to go, and for each head of a request.
    pub head_ms: u64,
    /// Time for a connection on which nothing moves.
    pub idle_ms: u64,
    /// Time to connect to where a sandbox wants to go.
    pub connect_ms: u64,
    /// Time for one upstream name server to answer once.
    pub upstream_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            connections_per_sandbox: 256,
            queries_per_second: 100,
            queries_per_sandbox: 64,
            head_ms: 30_000,
            idle_ms: 900_000,
            connect_ms: 10_000,
            upstream_ms: 2_000,
        }
    }
}

/// What a sandbox may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Every name is resolved; connections do not come this way.
    Open,
    /// Only these are resolved and connected to.
    Domains(Vec<DomainPattern>),
}

/// Something that a sandbox wanted and did not get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A name or a connection was refused.
    Refused {
        /// Whose.
        sandbox: SandboxId,
        /// The name or address that was wanted, as far as it is known. It comes from the sandbox:
        /// printable ASCII, at most 253 bytes, and nothing else is certain.
        target: String,
        /// The port that was wanted; none for a name that was only to be resolved.
        port: Option<u16>,
        /// Why.
        reason: Reason,
    },
    /// More was refused than is told one by one.
    LeftOut {
        /// Whose.
        sandbox: SandboxId,
        /// How many since the last notice of this kind.
        count: u64,
    },
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The name is not on the sandbox's list.
    NotAllowed,
    /// The connection names no host: a protocol other than TLS with a server name and HTTP.
    NoName,
    /// It breaks the rules of its protocol, or could be read in two ways.
    Malformed,
    /// The name leads to an address that is not on the public internet.
    Address,
    /// Too many at once, or too fast.
    Limit,
    /// It came to the proxy by another way than a redirect.
    NotRedirected,
}

impl Reason {
    /// The reason as one word, as on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::NoName => "no_name",
            Self::Malformed => "malformed",
            Self::Address => "address",
            Self::Limit => "limit",
            Self::NotRedirected => "not_redirected",
        }
    }
}

/// What the process says of itself once it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Where it resolves names, with the ports that it got.
    pub dns: Vec<SocketAddr>,
    /// Where it takes connections.
    pub proxy: Vec<SocketAddr>,
    /// The version of Landlock that it is confined by, 0 for none.
    pub landlock: u32,
}

/// To the process. The first line is the settings alone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    Set {
        seq: u64,
        sandbox: SandboxId,
        addresses: Vec<IpAddr>,
        policy: Policy,
    },
    Remove {
        seq: u64,
        addresses: Vec<IpAddr>,
    },
}

/// From the process. The first line is `Ready` or `Failed`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Ready(Ready),
    Failed(String),
    Done { seq: u64 },
    Notice(Notice),
}

/// A value as a line.
pub(crate) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).expect("plain data always has a JSON form");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_defaults_and_name_what_is_wrong() {
        let settings: Settings = serde_json::from_str(
            r#"{"dns":["10.88.0.1:53"],"proxy":[],"upstreams":["127.0.0.53:53"]}"#,
        )
        .unwrap();
        assert_eq!(settings.limits, Limits::default());
        assert!(!settings.ipv6 && settings.identity.is_none());
        let wrong = serde_json::from_str::<Settings>(
            r#"{"dns":[],"proxy":[],"upstreams":[],"allow_cidrs":["10.0.0.1/8"]}"#,
        );
        assert!(wrong.unwrap_err().to_string().contains("invalid range"));
    }

    #[test]
    fn reasons_are_the_words_on_the_wire() {
        for reason in [
            Reason::NotAllowed,
            Reason::NoName,
            Reason::Malformed,
            Reason::Address,
            Reason::Limit,
            Reason::NotRedirected,
        ] {
            let text = serde_json::to_string(&reason).unwrap();
            assert_eq!(text.trim_matches('"'), reason.as_str());
        }
    }
}
