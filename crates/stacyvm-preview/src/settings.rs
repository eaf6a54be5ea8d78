//! Settings of previews.

use std::sync::Arc;
use std::time::Duration;

use crate::{Gate, OpenGate};

/// How previews behave.
#[derive(Clone, Debug)]
pub struct PreviewSettings {
    /// The domain below which clients build `{port}-{id}.{preview_domain}`; a port in it is ignored.
    pub domain: String,
    /// How long a request waits for a port to open.
    pub wait: Duration,
    /// How long a connection may move no bytes in either direction.
    pub idle_timeout: Duration,
    /// The most requests and tunnels at once into one sandbox.
    pub max_connections: usize,
    /// How many previews a client address may miss in a minute: ask for, and not be shown; 0 means no
    /// limit.
    pub misses_per_minute: u32,
    /// Decides who may open previews.
    pub gate: Arc<dyn Gate>,
}

impl Default for PreviewSettings {
    fn default() -> Self {
        Self {
            domain: "localhost".to_owned(),
            wait: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            max_connections: 1024,
            misses_per_minute: 120,
            gate: Arc::new(OpenGate),
        }
    }
}
