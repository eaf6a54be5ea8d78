//! How a sandbox is connected: what a client may ask for, and what it is told.

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

/// What a client may say about a network.
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

/// How a sandbox is connected now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkInfo {
    /// `none` or `bridge`.
    pub mode: String,
    /// The only names whose servers may be reached; absent means no such rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_domains: Option<Vec<String>>,
}
