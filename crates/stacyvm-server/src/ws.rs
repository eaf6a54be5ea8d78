//! Commands over a WebSocket: a conversation between a client and one running command.
//!
//! Owns the frames of both dialects and the flow of bytes both ways; starts no command and knows
//! no route. Its one non-obvious rule: everything that waits is bounded, and only standard input
//! ever makes the reader of frames wait, so a signal, a resize and the end of the client are heard
//! while the command reads nothing.

mod conversation;
mod input;
mod opening;
mod said;
mod voice;

pub(crate) use conversation::{Talk, converse, dismiss, farewell, first_frame};
pub(crate) use opening::{Dialect, Opening};
pub(crate) use voice::Voice;
