//! Previews: ports of sandboxes in a browser.

use serde::{Deserialize, Serialize};
use stacyvm_types::{GoDuration, PreviewAccess};

use super::PreviewTlsConfig;

/// Previews.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PreviewConfig {
    /// `public` or `private`, for sandboxes whose spawn says nothing; none means private when
    /// `auth.api_key` is set, public otherwise.
    pub access: Option<PreviewAccess>,
    /// How long a link to a private preview is good that asks for nothing.
    pub link_ttl: GoDuration,
    /// How long one may ask for.
    pub max_link_ttl: GoDuration,
    /// How long a request waits for a port to open.
    pub wait: GoDuration,
    /// How long a connection may be silent in both directions.
    pub idle_timeout: GoDuration,
    /// Requests and tunnels at once into one sandbox.
    pub max_connections_per_sandbox: u32,
    /// Certificates.
    pub tls: PreviewTlsConfig,
}

impl Default for PreviewConfig {
    fn default() -> Self {
        Self {
            access: None,
            link_ttl: GoDuration::from_secs(60 * 60),
            max_link_ttl: GoDuration::from_secs(7 * 24 * 60 * 60),
            wait: GoDuration::from_secs(10),
            idle_timeout: GoDuration::from_secs(10 * 60),
            max_connections_per_sandbox: 1024,
            tls: PreviewTlsConfig::default(),
        }
    }
}
