//! Commands over a WebSocket: a session of a client and one running command.
//!
//! Owns the frames of both dialects and the flow of bytes both ways; starts no command and knows
//! no route. Its one non-obvious rule: everything that waits is bounded, and only standard input
//! ever makes the reader of frames wait, so a signal, a resize and the end of the client are heard
//! while the command reads nothing.

mod client_input;
mod frame_encoder;
mod input;
mod progress;
mod reader;
mod session;
mod socket;
mod start_frame;
mod writer;

pub(crate) use frame_encoder::FrameEncoder;
pub(crate) use session::{Session, close_as_invalid, close_with_failure, first_frame, run_session};
pub(crate) use start_frame::{Dialect, StartFrame};
