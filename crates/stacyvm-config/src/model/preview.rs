//! Previews: ports of sandboxes in a browser.

use serde::{Deserialize, Serialize};
use stacyvm_types::GoDuration;

/// Who may open a preview.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PreviewAccess {
    /// Whoever knows its address.
    #[default]
    Public,
    /// Whoever has a link that was made for it.
    Private,
}

/// Previews.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PreviewConfig {
    /// `public` or `private`.
    pub access: PreviewAccess,
    /// How long a request waits for a port to open.
    pub wait: GoDuration,
    /// How long a connection may be silent in both directions.
    pub idle_timeout: GoDuration,
    /// Requests and tunnels at once into one sandbox.
    pub max_connections_per_sandbox: u32,
}

impl Default for PreviewConfig {
    fn default() -> Self {
        Self {
            access: PreviewAccess::Public,
            wait: GoDuration::from_secs(10),
            idle_timeout: GoDuration::from_secs(10 * 60),
            max_connections_per_sandbox: 1024,
        }
    }
}
