//! The layout of chunks: writing them, and finding them in arbitrary bytes.

use bytes::{Buf as _, Bytes, BytesMut};

/// Bytes of a chunk's header.
pub(super) const HEADER_LEN: usize = 11;
/// The most data in one chunk, bytes.
pub const MAX_DATA: usize = 0x3fff;
/// The longest chunk, bytes.
pub const MAX_CHUNK_LEN: usize = HEADER_LEN + MAX_DATA;

/// A chunk with a correct checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// What the chunk is for. Unknown numbers come from later versions, and are skipped.
    pub kind: u8,
    /// The session that it belongs to.
    pub session: u32,
    /// At most [`MAX_DATA`] bytes.
    pub data: Bytes,
}

/// The chunk is damaged: it was cut, or mixed up with another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// Finds chunks in the bytes that arrive. It holds at most one chunk and what was read with it.
#[derive(Debug, Default)]
pub struct Decoder {
    pub(super) buffer: BytesMut,
}

impl Decoder {
    /// Takes bytes as they arrive.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next chunk; none until more has arrived.
    ///
    /// # Errors
    /// When it is damaged. It has been skipped.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, Damaged> {
        let filler = self.buffer.iter().take_while(|byte| **byte == 0).count();
        self.buffer.advance(filler);
        let Some(header) = self.buffer.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_le_bytes([header[1], header[2]])) & MAX_DATA;
        if self.buffer.len() < HEADER_LEN + length {
            return Ok(None);
        }
        let mut chunk = self.buffer.split_to(HEADER_LEN + length);
        let checked = check(&chunk[..7], &chunk[HEADER_LEN..]).to_le_bytes() == chunk[7..11];
        let kind = chunk[0];
        let session = u32::from_le_bytes([chunk[3], chunk[4], chunk[5], chunk[6]]);
        chunk.advance(HEADER_LEN);
        checked
            .then(|| {
                Some(Chunk {
                    kind,
                    session,
                    data: chunk.freeze(),
                })
            })
            .ok_or(Damaged)
    }
}

/// Appends a chunk; `data` has at most [`MAX_DATA`] bytes.
pub(super) fn write(out: &mut BytesMut, kind: u8, session: u32, data: &[u8]) {
    let start = out.len();
    begin(out, kind, session);
    out.extend_from_slice(data);
    seal(out, start);
}

/// Appends a header. `seal` completes it once the data stands behind it.
pub(super) fn begin(out: &mut BytesMut, kind: u8, session: u32) {
    out.extend_from_slice(&[kind, 0, 0]);
    out.extend_from_slice(&session.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

/// Completes the chunk that began at `start` and goes to the end.
pub(super) fn seal(out: &mut BytesMut, start: usize) {
    let length = out.len() - start - HEADER_LEN;
    debug_assert!(length <= MAX_DATA, "the caller splits what is longer");
    let bytes = u16::try_from(length).unwrap_or(0).to_le_bytes();
    out[start + 1..start + 3].copy_from_slice(&bytes);
    let check = check(&out[start..start + 7], &out[start + HEADER_LEN..]);
    out[start + 7..start + HEADER_LEN].copy_from_slice(&check.to_le_bytes());
}

/// The checksum: FNV-1a's step (Fowler, Noll, Vo) on words of eight bytes, folded to 32 bits. It
/// detects accidents, not attacks, and costs little compared with the copying.
fn check(header: &[u8], data: &[u8]) -> u32 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut step = |word: u64| hash = (hash ^ word).wrapping_mul(PRIME).rotate_left(23);
    for part in [header, data] {
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            step(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        step(u64::from_le_bytes(last));
    }
    // A chunk of nothing but zeros is filler, so no check may make one; the kind sees to that.
    (hash ^ (hash >> 32)) as u32
}
