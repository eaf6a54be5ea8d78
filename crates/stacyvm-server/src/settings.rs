//! The settings of the server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use stacyvm_preview::PreviewSettings;
use stacyvm_preview::access::Access;
use stacyvm_preview::tls::Tls;
use stacyvm_types::Cidr;

use crate::connections::ConnectionSettings;
use crate::paced_body::BodyPace;

/// A value that is never printed; its `Debug` says only that it is there.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that compares it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The settings of the server. No route changes any of them.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Every route but `/live` and `/ready` asks for it; none means no authentication.
    pub api_key: Option<Secret>,
    /// Origins beside the server's own whose pages may call; `*` means all.
    pub cors_allowed_origins: Vec<String>,
    /// Names beside loopback ones and addresses under which the server may be called while
    /// authentication is off; `*.example.org` covers every name below, `*` all.
    pub allowed_hosts: Vec<String>,
    /// Proxies whose `X-Forwarded-For` says who the client is.
    pub trusted_proxies: Vec<Cidr>,
    /// Under which clients build preview URLs; its name counts as an allowed host.
    pub preview_domain: String,
    /// What `/health` says.
    pub version: String,
    /// The longest JSON body, bytes.
    pub json_limit: usize,
    /// The longest file or archive, bytes.
    pub file_limit: u64,
    /// The longest archive of images, bytes.
    pub image_limit: u64,
    /// How often a comment goes to those who follow events.
    pub event_heartbeat: Duration,
    /// How long requests in flight may take to end after the shutdown was asked for.
    pub drain_timeout: Duration,
    /// How long a ticket is good.
    pub ticket_life: Duration,
    /// How often the API may be used.
    pub rates: RateSettings,
    /// How many connections there may be.
    pub connections: ConnectionSettings,
    /// How slowly the body of a request may come.
    pub body_pace: BodyPace,
    /// How previews behave; under which names stands there too.
    pub preview: PreviewSettings,
    /// Gives out links to private previews; none when there are no previews that could need one.
    pub access: Option<Arc<Access>>,
    /// Speaks TLS on every address, beside plain HTTP; none means plain HTTP alone.
    pub tls: Option<Arc<Tls>>,
}

/// How often the API may be used; 0 means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateSettings {
    /// Requests of one key, or of one address while no key is set.
    pub requests_per_second: u32,
    /// How many of them at once; 0 means those of one second.
    pub burst: u32,
    /// Requests of one owner.
    pub owner_requests_per_second: u32,
    /// How many of them at once; 0 means those of one second.
    pub owner_burst: u32,
    /// Spawns of one key, or of one address while no key is set.
    pub spawns_per_minute: u32,
    /// Spawns of one owner.
    pub owner_spawns_per_minute: u32,
    /// Wrong keys of one address.
    pub auth_failures_per_minute: u32,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            api_key: None,
            cors_allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            preview_domain: "localhost:7423".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            json_limit: 4 * 1024 * 1024,
            file_limit: 1024 * 1024 * 1024,
            image_limit: 16 * 1024 * 1024 * 1024,
            event_heartbeat: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            ticket_life: Duration::from_secs(60),
            rates: RateSettings::default(),
            connections: ConnectionSettings::default(),
            body_pace: BodyPace::default(),
            preview: PreviewSettings::default(),
            access: None,
            tls: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_never_printed() {
        let settings = ServerSettings {
            api_key: Some("hunter2".into()),
            ..ServerSettings::default()
        };
        let printed = format!("{settings:?} {settings:#?}");
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(printed.contains("Secret(***)"), "{printed}");
    }
}
