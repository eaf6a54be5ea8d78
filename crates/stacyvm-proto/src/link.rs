//! The agent protocol over one pair of pipes that outlives its users.
//!
//! A container engine attaches to the standard input and output of an agent, and servers come and go
//! on that pair: one may die in the middle of a write, the next one finds whatever bytes were left,
//! and the agent never sees an end of stream. The link makes sessions of it: each behaves like a
//! socket connection of its own, which ends when the next one begins. This module owns the chunks
//! and the rules below; it knows nothing of frames. `VERSIONING.md` says how it may change.
//!
//! ```text
//! [kind u8][length u16 LE][session u32 LE][check u32 LE]  data of `length` bytes
//! ```
//!
//! - Both directions are chunks. A zero byte between chunks is filler. Of `length` only the low
//!   fourteen bits count, so there is no chunk that cannot be read: whatever came before, after
//!   [`MAX_CHUNK_LEN`] zero bytes the reader stands between chunks. (A header that was cut gets
//!   zeros for what is missing, which only makes its chunk shorter.)
//! - `check` is a checksum of the rest of the chunk. The bytes of two writers may have been mixed on
//!   their way in: a chunk with a wrong checksum ends the session.
//! - A host begins with that much filler and `BEGIN`, with a new session number and a random nonce.
//!   The agent ends the session before, and answers `BEGUN` with both. The host skips everything
//!   until it reads exactly that answer, which no earlier writer can have predicted; all bytes from
//!   then on belong to its session.
//! - Chunks of other sessions are skipped. A host that reads the `BEGUN` of another session has been
//!   replaced.
//! - `END` takes the place of the end of a stream, because closing the pipe would close the agent's
//!   input for good.
//! - A host sends `ALIVE` every [`ALIVE_INTERVAL`]; an agent ends a session when it has received
//!   nothing for [`SILENCE_TIMEOUT`].
//!
//! A slow reader makes the writer wait, and neither side holds more than a few chunks.

mod agent;
mod chunk;
mod host;
mod input;
mod output;
mod wire;

pub use agent::{Link, SessionRead};
pub use chunk::{Chunk, Decoder, MAX_CHUNK_LEN, MAX_DATA};
pub use host::{HostRead, connect};
pub use output::SessionWrite;
pub use wire::{ALIVE_INTERVAL, NONCE_LEN, SILENCE_TIMEOUT};

#[cfg(test)]
mod tests;
