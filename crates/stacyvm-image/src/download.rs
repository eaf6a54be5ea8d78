//! Fetching one blob into a file: from where an earlier attempt ended, again after a cut, and only
//! whole with the right digest.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Instant;

use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use crate::manifest::Descriptor;
use crate::registry::{Denied, Remote, rest};
use crate::{Digest, ImageError, LayerStage, PullOptions};

const STEP: &str = "write a layer that comes in";
/// So many bytes in the time of a stall are as good as none.
const TRICKLE: u64 = 16 * 1024;
/// So many bytes make an attempt one that got on.
const PROGRESS: u64 = 64 * 1024;

/// A blob to be fetched.
pub(crate) struct Download<'a> {
    pub(crate) remote: &'a Remote<'a>,
    pub(crate) options: &'a PullOptions,
    pub(crate) blob: &'a Descriptor,
    /// The file that it becomes, which may have a part of it.
    pub(crate) place: PathBuf,
    pub(crate) check: &'a dyn Fn() -> Result<(), ImageError>,
    pub(crate) tell: &'a dyn Fn(LayerStage),
}

/// What is there of the blob.
struct Part {
    file: File,
    hash: Sha256,
    length: u64,
    /// Whether some of it is from an earlier attempt.
    resumed: bool,
    /// Bytes that came over the network.
    came: u64,
}

impl Download<'_> {
    /// Fetches the blob; answers its file, from the start, and how many bytes came over the
    /// network.
    pub(crate) fn run(&self, first: usize) -> Result<(File, u64), ImageError> {
        let mut part = self.open()?;
        let mut endpoint = first;
        loop {
            endpoint = self.fill(&mut part, endpoint)?;
            let got = Digest::from_hash(part.hash.clone());
            if got == self.blob.digest {
                part.file.rewind().map_err(ImageError::io(STEP))?;
                return Ok((part.file, part.came));
            }
            // What was kept may be what is wrong, or what a mirror has.
            if part.resumed {
                part.restart()?;
            } else if endpoint + 1 < self.remote.endpoints() {
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

    /// Removes the file: it is of no more use.
    pub(crate) fn forget(&self) {
        let _ = fs::remove_file(&self.place);
    }

    fn open(&self) -> Result<Part, ImageError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.place)
            .map_err(ImageError::io(STEP))?;
        // Two layers of one image may be the same blob only when they are the same layer, so that
        // nobody waits here but for a moment.
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(ImageError::io(STEP))?;
        let mut part = Part {
            file,
            hash: Sha256::new(),
            length: 0,
            resumed: false,
            came: 0,
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

    /// Gets what is missing; answers which endpoint gave the last of it.
    fn fill(&self, part: &mut Part, first: usize) -> Result<usize, ImageError> {
        let (mut endpoint, mut tried) = (first, 0);
        while part.length < self.blob.size {
            (self.check)()?;
            let before = part.length;
            let failure = match self.attempt(part, endpoint) {
                Ok(()) => return Ok(endpoint),
                Err(Denied::Range) if part.length > 0 => {
                    part.restart()?;
                    continue;
                }
                Err(Denied::Range) => {
                    let reason = "it answers a whole request with a part".to_owned();
                    Err(self.remote.unusable(endpoint, reason))
                }
                Err(Denied::Lasting(error)) => Err(error),
                Err(Denied::Passing(error, pause)) => Ok((error, pause)),
            };
            if part.length >= before + PROGRESS {
                tried = 0;
            }
            tried += 1;
            match failure {
                Ok((_, pause)) if tried < self.options.attempts => {
                    (self.tell)(LayerStage::Retrying { attempt: tried + 1 });
                    rest(&self.options.cancel, tried, pause)?;
                }
                Ok((error, _)) | Err(error) => {
                    if is_ours(&error) || endpoint + 1 >= self.remote.endpoints() {
                        return Err(error);
                    }
                    (endpoint, tried) = (endpoint + 1, 0);
                }
            }
        }
        Ok(endpoint)
    }

    fn attempt(&self, part: &mut Part, endpoint: usize) -> Result<(), Denied> {
        let ours = |error| Denied::Lasting(ImageError::io(STEP)(error));
        let mut blob = self.remote.blob(endpoint, self.blob.digest, part.length)?;
        if blob.start != part.length {
            part.restart().map_err(Denied::Lasting)?;
        }
        let mut buffer = vec![0; 128 * 1024];
        let (mut since, mut window) = (Instant::now(), 0);
        loop {
            (self.check)().map_err(Denied::Lasting)?;
            let got = blob
                .reader
                .read(&mut buffer)
                .map_err(|error| Denied::Passing(self.remote.cut(endpoint, error), None))?;
            if got == 0 {
                break;
            }
            if part.length + got as u64 > self.blob.size {
                return Err(Denied::Lasting(ImageError::Limit(format!(
                    "a layer has more than the {} bytes that its manifest says",
                    self.blob.size
                ))));
            }
            part.file.write_all(&buffer[..got]).map_err(|error| {
                // A part that fills the disk helps nobody.
                self.forget();
                ours(error)
            })?;
            part.hash.update(&buffer[..got]);
            part.length += got as u64;
            part.came += got as u64;
            (self.tell)(LayerStage::Downloading { done: part.length });
            window += got as u64;
            if since.elapsed() >= self.options.stall_timeout {
                if window < TRICKLE {
                    let reason = "it sends next to nothing".to_owned();
                    return Err(Denied::Passing(
                        self.remote.unusable(endpoint, reason),
                        None,
                    ));
                }
                (since, window) = (Instant::now(), 0);
            }
        }
        match part.length == self.blob.size {
            true => Ok(()),
            false => Err(Denied::Passing(
                self.remote
                    .unusable(endpoint, "the connection was cut".to_owned()),
                None,
            )),
        }
    }
}

impl Part {
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

/// Whether another registry would not help.
fn is_ours(error: &ImageError) -> bool {
    matches!(
        error,
        ImageError::Cancelled | ImageError::DiskFull { .. } | ImageError::Io { .. }
    )
}
