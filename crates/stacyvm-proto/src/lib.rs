//! The agent protocol, between the host and the program inside a sandbox.
//!
//! This crate owns the frame layout, the messages, version negotiation and the multiplexer that both
//! ends run. It knows nothing of processes, files or sandboxes. The one rule: the peer is hostile, so
//! every length is checked before memory is allocated for it, and unexpected bytes are skipped or
//! refused, never a panic. `VERSIONING.md` says how the protocol may change.
#![forbid(unsafe_code)]

mod frame;
mod hello;
pub mod link;
pub mod message;
pub mod mux;
mod version;

pub use frame::{
    CHANNELS, FRAME_COST, FrameError, HEADER_LEN, Header, Kind, MAX_CHUNK, MAX_MESSAGE,
    MAX_PAYLOAD, WINDOW,
};
pub use hello::{HelloError, answer_hello, say_hello};
pub use version::{GENERATION, OLDEST_GENERATION, negotiate};

/// Channel of messages.
pub const MESSAGES: u8 = 0;
/// Channel of an exec's standard input and output, and of every other operation's bytes.
pub const DATA: u8 = 1;
/// Channel of an exec's standard error.
pub const STDERR: u8 = 2;
