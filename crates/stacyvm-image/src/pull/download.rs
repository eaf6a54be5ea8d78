//! Fetching one blob into a file. A download goes on where an earlier attempt ended or the connection
//! was cut, and the file is handed out only whole and with the right digest.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Instant;

use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use super::options::PullOptions;
use super::progress::LayerStage;
use crate::manifest::Descriptor;
use crate::registry::{RegistryClient, RequestError, wait_before_retry};
use crate::{Digest, ImageError};

/// The step that errors name.
const STEP: &str = "write a layer that comes in";
/// A connection that brings fewer bytes in the time of `stall_timeout` is given up.
const MIN_BYTES_PER_STALL: u64 = 16 * 1024;
/// An attempt that brings this many bytes does not count as failed.
const MIN_PROGRESS: u64 = 64 * 1024;

/// A blob to be fetched.
pub(crate) struct Download<'a> {
    pub(crate) client: &'a RegistryClient<'a>,
    pub(crate) options: &'a PullOptions,
    pub(crate) blob: &'a Descriptor,
    /// The file that it becomes, which may have a part of it.
    pub(crate) path: PathBuf,
    pub(crate) check: &'a dyn Fn() -> Result<(), ImageError>,
    pub(crate) report: &'a dyn Fn(LayerStage),
}

/// The part of the blob that is there.
struct PartialBlob {
    file: File,
    hash: Sha256,
    length: u64,
    /// Whether some of it is from an earlier attempt.
    resumed: bool,
    /// Bytes that came over the network.
    downloaded: u64,
}

impl Download<'_> {
    /// Fetches the blob; answers its file, from the start, and how many bytes came over the
    /// network.
    pub(crate) fn run(&self, first: usize) -> Result<(File, u64), ImageError> {
        let mut part = self.open()?;
        let mut endpoint = first;
        loop {
            endpoint = self.complete(&mut part, endpoint)?;
            let got = Digest::from_hash(part.hash.clone());
            if got == self.blob.digest {
                part.file.rewind().map_err(ImageError::io(STEP))?;
                return Ok((part.file, part.downloaded));
            }
            // The part from an earlier attempt may be wrong, or the mirror.
            if part.resumed {
                part.restart()?;
            } else if endpoint + 1 < self.client.endpoints() {
                part.restart()?;
                endpoint += 1;
            } else {
                self.forget();
                return Err(ImageError::Digest {
                    what: "a layer",
                    expected: self.blob.digest.to_string(),
                    got: got.to_string(),
                });
            }
        }
    }

    /// Removes the file, which is not needed any more.
    pub(crate) fn forget(&self) {
        let _ = fs::remove_file(&self.path);
    }

    fn open(&self) -> Result<PartialBlob, ImageError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
            .map_err(ImageError::io(STEP))?;
        // A blob is one layer, whose lock this thread has: the wait is short.
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(ImageError::io(STEP))?;
        let mut part = PartialBlob {
            file,
            hash: Sha256::new(),
            length: 0,
            resumed: false,
            downloaded: 0,
        };
        let mut buffer = vec![0; 256 * 1024];
        loop {
            (self.check)()?;
            match part.file.read(&mut buffer).map_err(ImageError::io(STEP))? {
                0 => break,
                got => {
                    part.hash.update(&buffer[..got]);
                    part.length += got as u64;
                }
            }
        }
        part.resumed = part.length > 0;
        if part.length > self.blob.size {
            part.restart()?;
        }
        Ok(part)
    }

    /// Downloads what is missing; answers which endpoint gave the last of it.
    fn complete(&self, part: &mut PartialBlob, first: usize) -> Result<usize, ImageError> {
        let (mut endpoint, mut tried) = (first, 0);
        while part.length < self.blob.size {
            (self.check)()?;
            let before = part.length;
            let failure = match self.attempt(part, endpoint) {
                Ok(()) => return Ok(endpoint),
                Err(RequestError::Range) if part.length > 0 => {
                    part.restart()?;
                    continue;
                }
                Err(RequestError::Range) => {
                    let reason = "it answers a whole request with a part".to_owned();
                    Err(self.client.unusable(endpoint, reason))
                }
                Err(RequestError::Permanent(error)) => Err(error),
                Err(RequestError::Temporary(error, pause)) => Ok((error, pause)),
            };
            if part.length >= before + MIN_PROGRESS {
                tried = 0;
            }
            tried += 1;
            match failure {
                Ok((_, pause)) if tried < self.options.attempts => {
                    (self.report)(LayerStage::Retrying { attempt: tried + 1 });
                    wait_before_retry(&self.options.cancel, tried, pause)?;
                }
                Ok((error, _)) | Err(error) => {
                    if is_local(&error) || endpoint + 1 >= self.client.endpoints() {
                        return Err(error);
                    }
                    (endpoint, tried) = (endpoint + 1, 0);
                }
            }
        }
        Ok(endpoint)
    }

    fn attempt(&self, part: &mut PartialBlob, endpoint: usize) -> Result<(), RequestError> {
        let permanent = |error| RequestError::Permanent(ImageError::io(STEP)(error));
        let mut blob = self.client.blob(endpoint, self.blob.digest, part.length)?;
        if blob.start != part.length {
            part.restart().map_err(RequestError::Permanent)?;
        }
        let mut buffer = vec![0; 128 * 1024];
        let (mut since, mut window) = (Instant::now(), 0);
        loop {
            (self.check)().map_err(RequestError::Permanent)?;
            let got = blob.reader.read(&mut buffer).map_err(|error| {
                RequestError::Temporary(self.client.stream_error(endpoint, error), None)
            })?;
            if got == 0 {
                break;
            }
            if part.length + got as u64 > self.blob.size {
                return Err(RequestError::Permanent(ImageError::Limit(format!(
                    "a layer has more than the {} bytes that its manifest says",
                    self.blob.size
                ))));
            }
            part.file.write_all(&buffer[..got]).map_err(|error| {
                // The part is not kept on a disk that is full.
                self.forget();
                permanent(error)
            })?;
            part.hash.update(&buffer[..got]);
            part.length += got as u64;
            part.downloaded += got as u64;
            (self.report)(LayerStage::Downloading { done: part.length });
            window += got as u64;
            if since.elapsed() >= self.options.stall_timeout {
                if window < MIN_BYTES_PER_STALL {
                    let reason = "it sends next to nothing".to_owned();
                    return Err(RequestError::Temporary(
                        self.client.unusable(endpoint, reason),
                        None,
                    ));
                }
                (since, window) = (Instant::now(), 0);
            }
        }
        match part.length == self.blob.size {
            true => Ok(()),
            false => Err(RequestError::Temporary(
                self.client
                    .unusable(endpoint, "the connection was cut".to_owned()),
                None,
            )),
        }
    }
}

impl PartialBlob {
    fn restart(&mut self) -> Result<(), ImageError> {
        self.file.set_len(0).map_err(ImageError::io(STEP))?;
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(ImageError::io(STEP))?;
        self.hash = Sha256::new();
        self.length = 0;
        self.resumed = false;
        Ok(())
    }
}

/// Whether the error is of this machine, so that another registry would not help.
fn is_local(error: &ImageError) -> bool {
    matches!(
        error,
        ImageError::Cancelled | ImageError::DiskFull { .. } | ImageError::Io { .. }
    )
}
