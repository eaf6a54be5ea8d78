//! Archives of images that are loaded and saved.
//!
//! To load one, the store needs a file that it can read twice: the archive is written to one first,
//! which is removed with its `SpooledArchiveArchive`, or at the next start. To save one, the store writes
//! into a channel of bounded chunks; when its reader is gone, the writing ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use stacyvm_image::{ImageStore, StoredImage};
use stacyvm_provider::ProviderError;
use stacyvm_provider::ops::{ByteReceiver, OpError};
use tokio::sync::mpsc;

use crate::blocking::run_blocking;

/// How many chunks wait for the reader of an archive.
const MAX_WAITING_CHUNKS: usize = 8;
/// Bytes of a chunk.
const CHUNK_SIZE: usize = 128 * 1024;

/// An archive in a file of its own, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct SpooledArchive {
    path: PathBuf,
}

impl SpooledArchive {
    fn create(directory: &Path) -> io::Result<(Self, File)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{}-{number}", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok((Self { path }, file))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SpooledArchive {
    fn drop(&mut self) {
        // A file that cannot be removed now is removed at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes an archive to a file. A stream that breaks off is an error.
pub(crate) async fn spool(
    directory: PathBuf,
    archive: ByteReceiver,
) -> Result<SpooledArchive, ProviderError> {
    run_blocking("keep the archive", move || {
        write_to_file(&directory, archive)
    })
    .await
}

fn write_to_file(
    directory: &Path,
    mut archive: ByteReceiver,
) -> Result<SpooledArchive, ProviderError> {
    let failed = |error: io::Error| {
        let message = match error.kind() {
            io::ErrorKind::StorageFull => {
                "no space is left on the disk: run \"stacyvm image prune\", or make room in the data directory".to_owned()
            }
            kind => kind.to_string(),
        };
        ProviderError::backend("keep the archive", message, error)
    };
    let (spooled, mut file) = SpooledArchive::create(directory).map_err(failed)?;
    while let Some(chunk) = archive.blocking_recv() {
        let chunk =
            chunk.map_err(|_| ProviderError::Invalid("the archive was broken off".to_owned()))?;
        file.write_all(&chunk).map_err(failed)?;
    }
    Ok(spooled)
}

/// Writes images as an archive that the answer reads. `held` keeps the images until it is written.
pub(crate) fn stream(
    store: Arc<ImageStore>,
    names: Vec<String>,
    held: Vec<StoredImage>,
) -> ByteReceiver {
    let (sender, receiver) = mpsc::channel(MAX_WAITING_CHUNKS);
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || {
        let _entered = span.enter();
        let _held = held;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut writer = ChunkWriter {
            sender,
            chunk: Vec::with_capacity(CHUNK_SIZE),
        };
        let saved = store.save_to(&names, &mut writer);
        match saved
            .map_err(io::Error::other)
            .and_then(|()| writer.flush())
        {
            Ok(()) => {}
            // The reader is gone.
            Err(_) if writer.sender.is_closed() => {}
            Err(error) => {
                tracing::warn!(%error, "images could not be saved");
                let reason = "the archive could not be written".to_owned();
                let _ = writer.sender.blocking_send(Err(OpError::Failed(reason)));
            }
        }
    });
    receiver
}

/// Collects small writes into chunks and sends them.
struct ChunkWriter {
    sender: mpsc::Sender<Result<Bytes, OpError>>,
    chunk: Vec<u8>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() >= CHUNK_SIZE {
            self.flush()?;
        }
        let taken = bytes.len().min(CHUNK_SIZE - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_SIZE));
        self.sender
            .blocking_send(Ok(chunk.into()))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
