//! The frame layout: a header of twelve bytes and a bounded payload.
//!
//! ```text
//! [length u32 LE][stream u32 LE][kind u8][channel u8][0 u16]  payload of `length` bytes
//! ```
//! This module owns the numbers of the wire; it does no I/O.

/// Length of a header, bytes.
pub const HEADER_LEN: usize = 12;
/// The longest payload of any frame, bytes.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// The longest payload of a message after the one that opens a stream, bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The longest chunk of data that both implementations send at once, bytes.
pub const MAX_CHUNK: usize = 64 * 1024;
/// Number of channels of a stream; a frame on a higher one is an error.
pub const CHANNELS: usize = 3;
/// Bytes that a side may send on a channel before the other gives more credit.
pub const WINDOW: u32 = 256 * 1024;
/// Credit that every frame costs beside its payload, bytes, so that a flood of tiny frames is bounded
/// too.
pub const FRAME_COST: u32 = 64;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first frame of either side, on stream 0.
    Hello,
    /// Opens a stream; the payload is the request. From the connecting side only.
    Open,
    /// A message on a stream's channel 0; takes credit.
    Message,
    /// Raw bytes on a channel above 0; takes credit.
    Data,
    /// More credit for the frame's channel; the payload is a u32 LE.
    Credit,
    /// The end of a channel. On channel 0 from the accepting side: the end of the stream.
    Finish,
    /// Ends the stream at once; the payload is a u32 LE reason.
    Reset,
    /// A sign of life on stream 0; its payload of eight bytes comes back as `Pong`.
    Ping,
    /// The answer to `Ping`.
    Pong,
}

impl Kind {
    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Open => 2,
            Self::Message => 3,
            Self::Data => 4,
            Self::Credit => 5,
            Self::Finish => 6,
            Self::Reset => 7,
            Self::Ping => 8,
            Self::Pong => 9,
        }
    }

    /// The kind of a number; none for one from a later generation, whose frames are skipped.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Open,
            3 => Self::Message,
            4 => Self::Data,
            5 => Self::Credit,
            6 => Self::Finish,
            7 => Self::Reset,
            8 => Self::Ping,
            9 => Self::Pong,
            _ => return None,
        })
    }
}

/// Why a peer's bytes are no frame of this protocol. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The announced payload is over the bound.
    #[error("a frame announces {0} bytes, the most is {MAX_PAYLOAD}")]
    TooLong(u32),
    /// The channel does not exist.
    #[error("a frame names channel {0}, the highest is {last}", last = CHANNELS - 1)]
    Channel(u8),
    /// The payload's length is wrong for the kind.
    #[error("a {0:?} frame has a payload of {1} bytes")]
    Length(Kind, u32),
    /// The peer sent more than its credit.
    #[error("a peer sent more than its credit on channel {0}")]
    Credit(u8),
    /// A frame came from the wrong side or at the wrong time.
    #[error("a {0:?} frame came from the wrong side or at the wrong time")]
    Unexpected(Kind),
}

/// The first twelve bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the payload, bytes.
    pub length: u32,
    /// Number of the stream; 0 is the connection itself.
    pub stream: u32,
    /// The kind's number, known or not.
    pub kind: u8,
    /// Number of the channel in the stream.
    pub channel: u8,
}

impl Header {
    /// A header of a known kind.
    pub const fn new(kind: Kind, stream: u32, channel: u8, length: u32) -> Self {
        Self {
            length,
            stream,
            kind: kind.number(),
            channel,
        }
    }

    /// Encodes the header for the wire.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.stream.to_le_bytes());
        bytes[8] = self.kind;
        bytes[9] = self.channel;
        bytes
    }

    /// Reads a header; the two reserved bytes may hold anything.
    ///
    /// # Errors
    /// When it is out of bounds, or its length is impossible for its kind. Unknown kinds are no error.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let header = Self {
            length: word(0),
            stream: word(4),
            kind: bytes[8],
            channel: bytes[9],
        };
        if header.length as usize > MAX_PAYLOAD {
            return Err(FrameError::TooLong(header.length));
        }
        let Some(kind) = Kind::from_number(header.kind) else {
            return Ok(header);
        };
        if header.channel as usize >= CHANNELS {
            return Err(FrameError::Channel(header.channel));
        }
        let fits = match kind {
            Kind::Hello | Kind::Open => true,
            Kind::Message => header.length as usize <= MAX_MESSAGE,
            Kind::Data => header.length > 0,
            Kind::Credit | Kind::Reset => header.length == 4,
            Kind::Finish => header.length == 0,
            Kind::Ping | Kind::Pong => header.length == 8,
        };
        if fits {
            Ok(header)
        } else {
            Err(FrameError::Length(kind, header.length))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_is_fixed() {
        let header = Header::new(Kind::Data, 0x0102_0304, 2, 0x1_0000);
        assert_eq!(header.encode(), [0, 0, 1, 0, 4, 3, 2, 1, 4, 2, 0, 0]);
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn bounds_are_checked_before_anything_else() {
        let too_long = Header::new(Kind::Data, 1, 1, MAX_PAYLOAD as u32 + 1).encode();
        assert_eq!(
            Header::decode(&too_long),
            Err(FrameError::TooLong(MAX_PAYLOAD as u32 + 1))
        );
        let channel = Header::new(Kind::Data, 1, CHANNELS as u8, 1).encode();
        assert_eq!(Header::decode(&channel), Err(FrameError::Channel(3)));
        let empty = Header::new(Kind::Data, 1, 1, 0).encode();
        assert_eq!(
            Header::decode(&empty),
            Err(FrameError::Length(Kind::Data, 0))
        );
    }

    #[test]
    fn kinds_and_numbers_agree() {
        for number in 0..=255u8 {
            if let Some(kind) = Kind::from_number(number) {
                assert_eq!(kind.number(), number);
            }
        }
        assert_eq!(Kind::from_number(10), None);
    }

    proptest! {
        #[test]
        fn any_twelve_bytes_decode_or_are_refused(bytes in any::<[u8; HEADER_LEN]>()) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert!(header.length as usize <= MAX_PAYLOAD);
                prop_assert_eq!(&header.encode()[..10], &bytes[..10]);
            }
        }
    }
}
