//! Empty file systems of a given size, ready to be written into a file.
//!
//! To format one takes a program (`mkfs.ext4`) and milliseconds; to write a copy takes neither. So
//! the first one of a size is kept in memory. It is a hundred KiB or two, the rest of the file is a
//! hole.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{SeekFrom, seek};

/// How many sizes are remembered.
const MAX_KEPT: usize = 8;
/// One block of the file system, and the unit in which holes are looked for.
const BLOCK: usize = 4096;
/// The largest file that ext4 holds with blocks of 4 KiB, less what this file system needs itself.
const MAX_MB: u64 = 15 * 1024 * 1024;

/// What every kernel since Linux 5 and every formatter of these years knows, whatever the
/// distribution prefers: no journal, because the file system ends with its sandbox.
const FEATURES: &str = "none,filetype,extent,flex_bg,uninit_bg,dir_index,ext_attr,large_file,\
                        huge_file,dir_nlink,extra_isize,sparse_super";

/// The sizes that have been made.
#[derive(Debug, Default)]
pub(super) struct EmptyImages {
    kept: Mutex<BTreeMap<u64, Arc<EmptyImage>>>,
}

/// An empty file system.
#[derive(Debug)]
pub(super) struct EmptyImage {
    length: u64,
    /// The parts that are not zero: offset and bytes.
    parts: Vec<(u64, Vec<u8>)>,
}

/// The program that formats them, when the machine has it.
pub(super) fn formatter() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join("mkfs.ext4"))
        .find(|program| program.is_absolute() && program.is_file())
}

impl EmptyImages {
    /// An empty file system with room for `mb` MiB; `scratch` is a directory to make it in. Blocks.
    pub(super) fn get(&self, mb: u64, scratch: &Path) -> io::Result<Arc<EmptyImage>> {
        if mb > MAX_MB {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        // Locked while one is formatted: a caller that waits most likely wants the same size.
        let mut kept = self.kept.lock();
        if let Some(image) = kept.get(&mb) {
            return Ok(image.clone());
        }
        let image = Arc::new(EmptyImage::make(mb, scratch)?);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(mb, image.clone());
        Ok(image)
    }
}

impl EmptyImage {
    fn make(mb: u64, scratch: &Path) -> io::Result<Self> {
        let path = scratch.join("disk.template");
        let made = Self::make_at(mb, &path);
        let removed = std::fs::remove_file(&path);
        let image = made?;
        removed?;
        Ok(image)
    }

    fn make_at(mb: u64, path: &Path) -> io::Result<Self> {
        let program = formatter().ok_or_else(|| io::Error::other("mkfs.ext4 is missing"))?;
        // Room for its tables beside what was asked for: an inode of 256 bytes for every 8 KiB.
        let length = (mb << 20) + (mb << 15) + (256 << 10);
        let file = new_file(path)?;
        file.set_len(length)?;
        let output = Command::new(program)
            .args([
                "-q", "-F", "-m", "0", "-b", "4096", "-I", "256", "-i", "8192",
            ])
            .args(["-O", FEATURES])
            .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
            .arg(path)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().last().unwrap_or_default().to_owned();
            return Err(io::Error::other(format!("mkfs.ext4 failed: {last}")));
        }
        Ok(Self {
            length,
            parts: parts(&file)?,
        })
    }

    /// Writes it into a new file.
    pub(super) fn write(&self, path: &Path) -> io::Result<File> {
        let file = new_file(path)?;
        file.set_len(self.length)?;
        for (offset, bytes) in &self.parts {
            file.write_all_at(bytes, *offset)?;
        }
        Ok(file)
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Everything in a file that is not zero, in whole blocks.
fn parts(mut file: &File) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut parts: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut next = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(next)) {
            Ok(start) => start,
            // The rest of the file is a hole.
            Err(rustix::io::Errno::NXIO) => return Ok(parts),
            Err(error) => return Err(error.into()),
        };
        next = seek(file, SeekFrom::Hole(start))?;
        seek(file, SeekFrom::Start(start))?;
        let mut offset = start;
        let mut data = io::BufReader::with_capacity(1 << 20, file.by_ref().take(next - start));
        let mut block = [0; BLOCK];
        while offset < next {
            let wanted = usize::try_from(next - offset).unwrap_or(BLOCK).min(BLOCK);
            data.read_exact(&mut block[..wanted])?;
            let block = &block[..wanted];
            if block.iter().any(|byte| *byte != 0) {
                match parts.last_mut() {
                    Some((start, bytes)) if *start + bytes.len() as u64 == offset => {
                        bytes.extend_from_slice(block);
                    }
                    _ => parts.push((offset, block.to_vec())),
                }
            }
            offset += wanted as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_zero_is_found_and_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = new_file(&dir.path().join("a")).unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(&[1; 5000], 4096).unwrap();
        file.write_all_at(&[0; 100_000], 1 << 20).unwrap();
        file.write_all_at(b"end", (10 << 20) - 3).unwrap();
        let image = EmptyImage {
            length: 10 << 20,
            parts: parts(&file).unwrap(),
        };
        let offsets: Vec<(u64, usize)> = image
            .parts
            .iter()
            .map(|(offset, bytes)| (*offset, bytes.len()))
            .collect();
        assert_eq!(offsets, [(4096, 8192), ((10 << 20) - 4096, 4096)]);
        image.write(&dir.path().join("b")).unwrap();
        let (one, other) = (dir.path().join("a"), dir.path().join("b"));
        assert!(std::fs::read(one).unwrap() == std::fs::read(other).unwrap());
    }

    #[test]
    fn a_size_is_made_once_and_no_size_is_absurd() {
        if formatter().is_none() {
            return stacyvm_testing::skip("mkfs.ext4 is missing");
        }
        let dir = tempfile::tempdir().unwrap();
        let images = EmptyImages::default();
        let first = images.get(16, dir.path()).unwrap();
        assert!(Arc::ptr_eq(&first, &images.get(16, dir.path()).unwrap()));
        let bytes: usize = first.parts.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes > 0 && bytes < 1 << 20, "{bytes}");
        assert!(images.get(u64::MAX, dir.path()).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for mb in 17..40 {
            images.get(mb, dir.path()).unwrap();
            assert!(images.kept.lock().len() <= MAX_KEPT);
        }
    }
}
