//! How much may be asked for at once.

use serde::{Deserialize, Serialize};
use stacyvm_types::GoDuration;

/// How much may be asked for at once; 0 means no limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LimitsConfig {
    /// Requests of one key, or of one address while no key is set.
    pub requests_per_second: u32,
    /// How many of them may come at once; 0 means those of one second.
    pub burst: u32,
    /// Requests of one owner.
    pub owner_requests_per_second: u32,
    /// How many of them may come at once; 0 means those of one second.
    pub owner_burst: u32,
    /// Spawns of one key, or of one address while no key is set.
    pub spawns_per_minute: u32,
    /// Spawns of one owner.
    pub owner_spawns_per_minute: u32,
    /// Wrong keys of one address.
    pub auth_failures_per_minute: u32,
    /// Connections of one address at once, trusted proxies excepted.
    pub connections_per_address: u32,
    /// Previews that one address may ask for without being shown them.
    pub preview_misses_per_minute: u32,
    /// Spawns that may wait while `defaults.max_sandboxes` are alive; 0 means that none waits.
    pub spawn_queue: u32,
    /// How long one waits.
    pub spawn_queue_timeout: GoDuration,
    /// Sandboxes that are made at the same moment.
    pub concurrent_creates: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            requests_per_second: 0,
            burst: 0,
            owner_requests_per_second: 0,
            owner_burst: 0,
            spawns_per_minute: 0,
            owner_spawns_per_minute: 0,
            auth_failures_per_minute: 300,
            connections_per_address: 4096,
            preview_misses_per_minute: 120,
            spawn_queue: 0,
            spawn_queue_timeout: GoDuration::from_secs(30),
            concurrent_creates: 64,
        }
    }
}
