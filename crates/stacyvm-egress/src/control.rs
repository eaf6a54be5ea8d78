//! The control protocol between the provider and the egress process: one JSON value a line.
//!
//! It is free to change: both come from one build, and the process ends with its provider.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use stacyvm_types::{Cidr, DomainPattern, SandboxId};

/// The longest line, in bytes.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// The settings of the process, sent once, at its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where names are resolved, over UDP and TCP. Never a wildcard address: an answer must leave from
    /// the address that was asked. The addresses need not exist yet.
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
    /// The user and group that the process changes to; none keeps those it was started with.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// Limits and timeouts.
    #[serde(default)]
    pub limits: Limits,
}

/// A user and a group of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

/// Limits and timeouts of the process. Times are in milliseconds.
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
    /// Time for a connection to name its host, and for each head of a request.
    pub head_ms: u64,
    /// Time for a connection on which nothing moves.
    pub idle_ms: u64,
    /// Time to connect to the host that a sandbox wants to reach.
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
    /// Every name is resolved; connections are not redirected to the proxy.
    Open,
    /// Only these names are resolved and connected to.
    Domains(Vec<DomainPattern>),
}

/// A report of what a sandbox was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A name or a connection was refused.
    Refused {
        /// The sandbox that was refused.
        sandbox: SandboxId,
        /// The name or address that the sandbox asked for, as far as it is known. It comes from the
        /// sandbox: only that it is printable ASCII of at most 253 bytes is certain.
        target: String,
        /// The port that the sandbox wanted to reach; none for a name that was only to be resolved.
        port: Option<u16>,
        /// The reason.
        reason: Reason,
    },
    /// More was refused than is reported one by one.
    LeftOut {
        /// The sandbox that was refused.
        sandbox: SandboxId,
        /// How many refusals since the last notice of this kind.
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
    /// The connection breaks the rules of its protocol, or could be read in two ways.
    Malformed,
    /// The name leads to an address that is not on the public internet.
    Address,
    /// The sandbox has too many connections or questions, or asks too fast.
    Limit,
    /// The connection came to the proxy without a redirect.
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

/// What the process reports once it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Where it resolves names, with the ports that it was given.
    pub dns: Vec<SocketAddr>,
    /// Where it accepts connections.
    pub proxy: Vec<SocketAddr>,
    /// The version of Landlock that it is confined by, 0 for none.
    pub landlock: u32,
}

/// A message to the process. The first line is the settings alone.
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

/// A message from the process. The first line is `Ready` or `Failed`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Ready(Ready),
    Failed(String),
    Done { seq: u64 },
    Notice(Notice),
}

/// A value as one line of JSON.
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
