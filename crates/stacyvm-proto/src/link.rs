//! The agent protocol over one pair of pipes that outlives its users.
//!
//! An engine attaches to the standard input and output of an agent, and servers come and go on
//! that pair: one may die in the middle of anything, the next one finds whatever was left, and the
//! agent never sees an end of stream. The link makes sessions of it: each behaves like a socket
//! connection of its own, which ends when the next one begins. Owns the chunks and the rules below;
//! knows nothing of frames. `VERSIONING.md` says how it may change.
//!
//! ```text
//! [kind u8][length u16 LE][session u32 LE][check u32 LE]  data of `length` bytes
//! ```
//!
//! - Both directions are chunks. A zero byte between chunks is filler. Of `length` only the low
//!   fourteen bits count, so there is no chunk that cannot be read: whatever came before, after
//!   [`LONGEST_CHUNK`] zero bytes the reader stands between chunks. (A header that was cut gets
//!   zeros for what is missing, which only makes its chunk shorter.)
//! - `check` covers all else of the chunk. Two writers may have been mixed up on their way in: a
//!   chunk that does not check ends the session instead of being believed.
//! - A host begins with that much filler and `BEGIN`, with a session number and a nonce that it
//!   has just made up. The agent ends the session before, and answers `BEGUN` with both. The host
//!   skips everything until it reads exactly that answer, which nobody could have foretold; what it
//!   reads from then on is its own.
//! - Chunks of other sessions are skipped. A host that sees a stranger's `BEGUN` has been replaced.
//! - `END` takes the place of the end of a stream, whose real form would close the agent's input
//!   for good.
//! - A host says `ALIVE` every [`ALIVE_EVERY`]; an agent ends a session after [`SILENT_AFTER`]
//!   without a word.
//!
//! A reader that is slow makes the writer wait, and neither side holds more than a few chunks.

mod agent;
mod chunk;
mod host;
mod input;
mod output;

pub use agent::{Link, SessionRead};
pub use chunk::{Chunk, Decoder, LONGEST_CHUNK, MAX_DATA};
pub use host::{HostRead, connect};
pub use output::SessionWrite;

use std::time::Duration;

/// How often a host shows that it lives.
pub const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// How long an agent believes in a host that says nothing.
pub const SILENT_AFTER: Duration = Duration::from_secs(60);
/// Bytes of a nonce; a host makes them up anew, from a source that nobody can foretell, for each
/// session.
pub const NONCE_LEN: usize = 16;

/// What a chunk is for, as numbers on the wire.
mod kind {
    pub(super) const BEGIN: u8 = 1;
    pub(super) const BEGUN: u8 = 2;
    pub(super) const DATA: u8 = 3;
    pub(super) const END: u8 = 4;
    pub(super) const ALIVE: u8 = 5;
}

#[cfg(test)]
mod tests;
