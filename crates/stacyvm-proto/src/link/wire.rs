//! Numbers of the link that both ends use.

use std::time::Duration;

/// How often a host sends a sign of life.
pub const ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long an agent keeps a session from which it receives nothing.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a nonce. A host takes a new one for each session from a source that cannot be predicted.
pub const NONCE_LEN: usize = 16;

/// Kinds of chunks, as numbers on the wire.
pub(super) mod kind {
    pub(in crate::link) const BEGIN: u8 = 1;
    pub(in crate::link) const BEGUN: u8 = 2;
    pub(in crate::link) const DATA: u8 = 3;
    pub(in crate::link) const END: u8 = 4;
    pub(in crate::link) const ALIVE: u8 = 5;
}
