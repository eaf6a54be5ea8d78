//! The bytes of an archive or layer: uncompressed while they are read, hashed and counted.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::{Digest, ImageError, Progress};

/// From how many unpacked bytes on the ratio of compression is checked.
const MIN_BYTES_FOR_RATIO: u64 = 512 * 1024 * 1024;
/// How many times its size a compressed file may unpack to. Disk images full of zeros reach 1,000,
/// file systems of programs 2 to 5.
const MAX_RATIO: u64 = 200;
/// The largest window of zstd, as a power of two: the memory that a stream can ask for.
const MAX_WINDOW: u32 = 27;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// An archive that is read from start to end.
pub(crate) struct ArchiveStream {
    reader: Box<dyn Read>,
    compressed: bool,
    hash: Sha256,
    unpacked: u64,
    read: Rc<Cell<u64>>,
    total: u64,
}

impl ArchiveStream {
    /// Reads `file` from its start; its first bytes say whether it is compressed.
    pub(crate) fn open(mut file: File) -> Result<Self, ImageError> {
        let step = "read the archive";
        let total = file.metadata().map_err(ImageError::io(step))?.len();
        let mut magic = Vec::new();
        file.rewind().map_err(ImageError::io(step))?;
        (&mut file)
            .take(4)
            .read_to_end(&mut magic)
            .map_err(ImageError::io(step))?;
        file.rewind().map_err(ImageError::io(step))?;
        let read = Rc::new(Cell::new(0));
        let counted = BufReader::with_capacity(
            256 * 1024,
            CountedFile {
                inner: file,
                read: Rc::clone(&read),
            },
        );
        let (reader, compressed): (Box<dyn Read>, bool) = if magic.starts_with(&GZIP) {
            (Box::new(MultiGzDecoder::new(counted)), true)
        } else if magic.starts_with(&ZSTD) {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(counted).map_err(ImageError::io(step))?;
            decoder
                .window_log_max(MAX_WINDOW)
                .map_err(ImageError::io(step))?;
            (Box::new(decoder), true)
        } else {
            (Box::new(counted), false)
        };
        Ok(Self {
            reader,
            compressed,
            hash: Sha256::new(),
            unpacked: 0,
            read,
            total,
        })
    }

    /// How far the reading is, now and later.
    pub(crate) fn position(&self) -> Position {
        Position {
            read: Rc::clone(&self.read),
            total: self.total,
        }
    }

    /// The digest of the uncompressed bytes.
    pub(crate) fn digest(self) -> Digest {
        Digest::from_hash(self.hash)
    }
}

/// Follows how much of an archive's file was read.
pub(crate) struct Position {
    read: Rc<Cell<u64>>,
    total: u64,
}

impl Position {
    /// The position now, together with the number of entries so far.
    pub(crate) fn with_entries(&self, entries: u64) -> Progress {
        Progress {
            read: self.read.get(),
            total: self.total,
            entries,
        }
    }
}

impl Read for ArchiveStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        self.hash.update(&buffer[..got]);
        self.unpacked += got as u64;
        if self.compressed
            && self.unpacked > MIN_BYTES_FOR_RATIO
            && self.unpacked / MAX_RATIO > self.read.get()
        {
            return Err(io::Error::other(LimitReached(format!(
                "it unpacks to more than {MAX_RATIO} times its size"
            ))));
        }
        Ok(got)
    }
}

/// A limit that a reader reached, as an error inside of an `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LimitReached(pub(crate) String);

/// The error for an archive that cannot be read to its end.
pub(crate) fn unreadable(error: &io::Error) -> ImageError {
    match inner_limit(error) {
        Some(limit) => ImageError::Limit(limit),
        None => ImageError::Archive(format!("not a readable tar archive: {error}")),
    }
}

/// The limit behind an error that other readers may have wrapped.
fn inner_limit(error: &io::Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> =
        error.get_ref().map(|inner| inner as _);
    while let Some(inner) = cause {
        if let Some(limit) = inner.downcast_ref::<LimitReached>() {
            return Some(limit.0.clone());
        }
        if let Some(found) = inner.downcast_ref::<io::Error>().and_then(inner_limit) {
            return Some(found);
        }
        cause = inner.source();
    }
    None
}

struct CountedFile {
    inner: File,
    read: Rc<Cell<u64>>,
}

impl Read for CountedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.read.set(self.read.get() + got as u64);
        Ok(got)
    }
}
