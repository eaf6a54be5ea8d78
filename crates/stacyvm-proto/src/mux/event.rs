//! What streams report, and why sending fails.

use bytes::Bytes;

/// The number of streams that one connection may have at once.
pub const MAX_STREAMS: usize = 1024;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that opens streams.
    Connecting,
    /// The side that answers them.
    Accepting,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The accepting side finished it.
    Finished,
    /// The other side gave it up.
    Reset,
    /// The connection is lost.
    Lost,
}

/// What a stream receives, in the order in which it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Message(Bytes),
    /// Bytes on a channel. The receiver gives their credit back with `release` once it has used them.
    Data(u8, Bytes),
    /// Nothing more comes on this channel.
    Finished(u8),
    /// The stream is over; every later call answers the same.
    Closed(End),
}

/// Why something could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// The stream is over.
    #[error("the stream has ended")]
    Ended,
    /// The connection is lost.
    #[error("the connection is lost")]
    Lost,
    /// The connection has [`MAX_STREAMS`] streams already.
    #[error("the connection has {MAX_STREAMS} operations under way, which is the most")]
    TooManyStreams,
    /// The message is longer than the protocol allows.
    #[error("the request is too large")]
    TooLarge,
}
