//! Gzip, unpacked as it arrives.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

/// A decoder that is fed chunk by chunk.
#[derive(Debug)]
pub(crate) struct Gunzip(MultiGzDecoder<Vec<u8>>);

impl Gunzip {
    /// How gzip begins (RFC 1952, section 2.3.1).
    pub(crate) const MAGIC: [u8; 2] = [0x1f, 0x8b];
    /// How much should be pushed at once: it can unpack to a little over a thousand times as much.
    pub(crate) const CHUNK_SIZE: usize = 1024;

    pub(crate) fn recognises(head: &[u8]) -> bool {
        head.starts_with(&Self::MAGIC)
    }

    pub(crate) fn new() -> Self {
        Self(MultiGzDecoder::new(Vec::new()))
    }

    /// What `chunk` unpacks to.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(chunk)?;
        Ok(std::mem::take(self.0.get_mut()))
    }

    /// What is left; an error when the end is not there or its checksum is wrong.
    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        self.0.finish()
    }
}
