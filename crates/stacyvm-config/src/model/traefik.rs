//! The keys of labels for Traefik.

use serde::{Deserialize, Serialize};

/// Labels with which a Traefik of one's own finds the ports of containers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TraefikConfig {
    /// Whether containers get them.
    pub enabled: bool,
    /// The ports that get a name `{port}-{id}.{server.preview_domain}`.
    pub ports: Vec<u16>,
    /// Traefik's entry points; an empty list leaves it to Traefik's default.
    pub entrypoints: Vec<String>,
    /// Traefik's resolver of certificates; none means plain HTTP.
    pub cert_resolver: Option<String>,
    /// The Docker network through which Traefik reaches containers; none means the one they are in.
    pub network: Option<String>,
}

impl Default for TraefikConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            ports: vec![3000, 5173, 8000, 8080],
            entrypoints: Vec::new(),
            cert_resolver: None,
            network: None,
        }
    }
}
