//! The network of a sandbox: the request, and the answer.

use serde::{Deserialize, Serialize};

/// `network` of a spawn: a word, or rules.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(
    untagged,
    expecting = "network must be a word (\"none\" or \"bridge\") or an object like {\"allow_domains\":[\"example.org\"]}"
)]
pub enum NetworkRequest {
    /// `none` or `bridge`; empty means the provider's default.
    Word(String),
    /// A network with rules of its own.
    Rules(NetworkRules),
}

/// The rules of a network, as a client sends them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkRules {
    /// `none` or `bridge`; absent means `bridge` where domains are named, else the provider's
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The only names whose servers may be reached: `example.org`, or `*.example.org` for every
    /// name below it. An empty list closes everything; absent or `null` opens all that the
    /// operator's rules leave open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_domains: Option<Vec<String>>,
}

/// The network of a sandbox at present.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkInfo {
    /// `none` or `bridge`.
    pub mode: String,
    /// The only names whose servers may be reached; absent means no such rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_domains: Option<Vec<String>>,
}
