//! Archives of images on their way in and out.
//!
//! In: the store wants a file that it can read twice, so what comes is kept in one first, which
//! goes with the last who holds it, or with the next start. Out: the store writes into a pipe of
//! bounded pieces, and a reader who has gone ends the writing.

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

/// Pieces between the store and who reads an archive.
const DEPTH: usize = 8;
/// Bytes of a piece.
const PIECE: usize = 128 * 1024;

/// An archive in a file of its own, which goes with this.
#[derive(Debug)]
pub(crate) struct Spooled {
    path: PathBuf,
}

impl Spooled {
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

impl Drop for Spooled {
    fn drop(&mut self) {
        // What cannot be removed now, the next start removes.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Keeps what comes in a file. An error in the stream, or an end without a word, is an error here.
pub(crate) async fn spool(
    directory: PathBuf,
    archive: ByteReceiver,
) -> Result<Spooled, ProviderError> {
    crate::provider::blocking("keep the archive", move || write_down(&directory, archive)).await
}

fn write_down(directory: &Path, mut archive: ByteReceiver) -> Result<Spooled, ProviderError> {
    let failed = |error: io::Error| {
        let message = match error.kind() {
            io::ErrorKind::StorageFull => {
                "no space is left on the disk: run \"stacyvm image prune\", or make room in the data directory".to_owned()
            }
            kind => kind.to_string(),
        };
        ProviderError::backend("keep the archive", message, error)
    };
    let (spooled, mut file) = Spooled::create(directory).map_err(failed)?;
    while let Some(piece) = archive.blocking_recv() {
        let piece =
            piece.map_err(|_| ProviderError::Invalid("the archive was broken off".to_owned()))?;
        file.write_all(&piece).map_err(failed)?;
    }
    Ok(spooled)
}

/// Writes images as an archive for whoever reads it. `held` keeps them until then.
pub(crate) fn stream(
    store: Arc<ImageStore>,
    names: Vec<String>,
    held: Vec<StoredImage>,
) -> ByteReceiver {
    let (sender, receiver) = mpsc::channel(DEPTH);
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || {
        let _entered = span.enter();
        let _held = held;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut pipe = Pipe {
            sender,
            piece: Vec::with_capacity(PIECE),
        };
        let saved = store.save_to(&names, &mut pipe);
        match saved.map_err(io::Error::other).and_then(|()| pipe.flush()) {
            Ok(()) => {}
            // Who asked for it has gone.
            Err(_) if pipe.sender.is_closed() => {}
            Err(error) => {
                tracing::warn!(%error, "images could not be saved");
                let reason = "the archive could not be written".to_owned();
                let _ = pipe.sender.blocking_send(Err(OpError::Failed(reason)));
            }
        }
    });
    receiver
}

/// Collects small writes and hands them on.
struct Pipe {
    sender: mpsc::Sender<Result<Bytes, OpError>>,
    piece: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender
            .blocking_send(Ok(piece.into()))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
