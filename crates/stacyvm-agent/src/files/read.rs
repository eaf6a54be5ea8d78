//! Opening a file for reading.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, MemfdFlags, OFlags};
use rustix::io::Errno;
use stacyvm_types::FileInfo;

use super::owner_names::OwnerNames;
use super::path::InnerPath;
use super::root::Root;
use super::{FileError, info};

/// How much is read of a virtual file, whose content the kernel makes up at each read, in bytes.
const MAX_VIRTUAL_FILE: u64 = 4 * 1024 * 1024;

/// A file opened for reading.
#[derive(Debug)]
pub struct OpenedFile {
    /// Describes the file as it was when it was opened. A link was followed, so this is its target.
    pub info: FileInfo,
    /// The open file, positioned at the first byte that was asked for.
    pub file: File,
    /// How many bytes from that position were asked for and exist. The file may shrink meanwhile.
    pub length: u64,
}

pub(super) fn open(
    root: &Root,
    names: &OwnerNames,
    path: &InnerPath,
    offset: u64,
    length: Option<u64>,
) -> Result<OpenedFile, FileError> {
    let failed = |errno| FileError::from_errno(errno, path.as_str());
    // Neither a pipe without a writer nor a terminal may hold the agent up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let descriptor = root.open(path.relative(), flags).map_err(failed)?;
    let stat = rustix::fs::fstat(&descriptor).map_err(failed)?;
    match info::file_type(&stat) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(failed(Errno::ISDIR)),
        _ => return Err(failed(Errno::NXIO)),
    }
    let mut info = info::describe(root, names, path.name(), path.as_str(), &stat, None);
    let mut file = File::from(descriptor);
    let io_failed = |error: std::io::Error| FileError::from_io(&error, path.as_str());
    if info.size == 0 {
        file = snapshot(file).map_err(io_failed)?;
        info.size = file.metadata().map_err(io_failed)?.len();
    }
    let rest = info.size.saturating_sub(offset);
    file.seek(SeekFrom::Start(offset)).map_err(io_failed)?;
    Ok(OpenedFile {
        length: length.unwrap_or(u64::MAX).min(rest),
        info,
        file,
    })
}

/// Copies the present content of a virtual file into memory: files of `/proc` and `/sys` report a
/// size of zero but have content. A file that really is empty is returned as it is.
fn snapshot(mut file: File) -> std::io::Result<File> {
    let mut content = Vec::new();
    match (&mut file).take(MAX_VIRTUAL_FILE).read_to_end(&mut content) {
        Ok(_) => {}
        // The file has nothing to read at present.
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    if content.is_empty() {
        return Ok(file);
    }
    let memory: OwnedFd = rustix::fs::memfd_create("snapshot", MemfdFlags::CLOEXEC)?;
    let mut copy = File::from(memory);
    copy.write_all(&content)?;
    Ok(copy)
}
