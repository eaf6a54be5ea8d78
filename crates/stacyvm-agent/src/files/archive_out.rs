//! A directory's content, or one file, as a tar stream.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use super::owner_names::OwnerNames;
use super::path::InnerPath;
use super::root::{Root, open_beneath};
use super::walk::{sorted_names, too_many};
use super::{FileError, info};

/// Types of virtual file systems, which hold no stored files: proc and sysfs (source: statfs(2)).
const VIRTUAL_FILE_SYSTEMS: [u64; 2] = [0x9fa0, 0x6265_6572];

/// Opens the file or directory that is to be archived.
pub(super) fn open_source(root: &Root, path: &InnerPath) -> Result<(OwnedFd, Stat), FileError> {
    let failed = |errno| FileError::from_errno(errno, path.as_str());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let source = root.open(path.relative(), flags).map_err(failed)?;
    let stat = rustix::fs::fstat(&source).map_err(failed)?;
    match info::file_type(&stat) {
        FileType::Directory | FileType::RegularFile => Ok((source, stat)),
        _ => Err(failed(Errno::NXIO)),
    }
}

pub(super) fn pack(
    root: &Root,
    names: &OwnerNames,
    path: &InnerPath,
    output: &mut dyn Write,
) -> Result<(), FileError> {
    let (source, stat) = open_source(root, path)?;
    let mut packer = Packer {
        root,
        names,
        builder: Builder::new(output),
        path,
    };
    if info::file_type(&stat) == FileType::RegularFile {
        packer.file(Path::new(path.name()), source, &stat)?;
    } else {
        packer.directory(&source, &stat)?;
    }
    packer
        .builder
        .finish()
        .map_err(|error| stream_failed(&error))
}

struct Packer<'a> {
    root: &'a Root,
    names: &'a OwnerNames,
    builder: Builder<&'a mut dyn Write>,
    path: &'a InnerPath,
}

impl Packer<'_> {
    fn directory(&mut self, top: &OwnedFd, top_stat: &Stat) -> Result<(), FileError> {
        // Directories still to be read: path relative to the first one, and the device that it is on.
        let mut waiting = vec![(PathBuf::new(), top_stat.st_dev)];
        while let Some((below, device)) = waiting.pop() {
            let at: &Path = if below.as_os_str().is_empty() {
                Path::new(".")
            } else {
                &below
            };
            let directory = match open_beneath(top, at, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(directory) => directory,
                // Removed or replaced meanwhile.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                    if !below.as_os_str().is_empty() =>
                {
                    continue;
                }
                Err(errno) => return Err(self.failed(&below, errno)),
            };
            let entries = match sorted_names(directory.as_fd()) {
                Ok(entries) => entries,
                Err(Errno::OVERFLOW) => return Err(too_many(self.path.as_str())),
                Err(errno) => return Err(self.failed(&below, errno)),
            };
            for entry in entries {
                let name = OsStr::from_bytes(entry.to_bytes());
                let full = below.join(name);
                let stat = match rustix::fs::statat(&directory, &entry, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(self.failed(&full, errno)),
                };
                match info::file_type(&stat) {
                    FileType::Directory => {
                        self.header(EntryType::Directory, &full, &stat, 0, None)?;
                        if stat.st_dev == device || !is_virtual(&directory, name) {
                            waiting.push((full, stat.st_dev));
                        }
                    }
                    FileType::RegularFile => {
                        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                        match open_beneath(&directory, name, flags) {
                            Ok(file) => {
                                let now = rustix::fs::fstat(&file)
                                    .map_err(|errno| self.failed(&full, errno))?;
                                if info::file_type(&now) == FileType::RegularFile {
                                    self.file(&full, file, &now)?;
                                }
                            }
                            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => {}
                            Err(errno) => return Err(self.failed(&full, errno)),
                        }
                    }
                    FileType::Symlink => {
                        let Ok(target) = rustix::fs::readlinkat(&directory, &entry, Vec::new())
                        else {
                            continue;
                        };
                        let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
                        self.header(EntryType::Symlink, &full, &stat, 0, Some(&target))?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, name: &Path, file: OwnedFd, stat: &Stat) -> Result<(), FileError> {
        let size = info::size(stat);
        let mut content = ExactLength {
            file: File::from(file),
            left: size,
            broken: None,
        };
        let mut header = self.fill(EntryType::Regular, stat, size);
        let written = self.builder.append_data(&mut header, name, &mut content);
        if let Some(error) = content.broken {
            let shown = self.shown(name);
            return Err(FileError::from_io(&error, &shown));
        }
        written.map_err(|error| stream_failed(&error))
    }

    fn header(
        &mut self,
        kind: EntryType,
        name: &Path,
        stat: &Stat,
        size: u64,
        target: Option<&Path>,
    ) -> Result<(), FileError> {
        let mut header = self.fill(kind, stat, size);
        match target {
            Some(target) => self.builder.append_link(&mut header, name, target),
            None => self
                .builder
                .append_data(&mut header, name, std::io::empty()),
        }
        .map_err(|error| stream_failed(&error))
    }

    // The fields' types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    fn fill(&self, kind: EntryType, stat: &Stat, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(u64::from(stat.st_uid));
        header.set_gid(u64::from(stat.st_gid));
        header.set_mtime(u64::try_from(stat.st_mtime as i64).unwrap_or(0));
        header.set_size(size);
        // A name that is too long for its field is left out; the number identifies the owner.
        let _ = header.set_username(&self.names.user(self.root, stat.st_uid));
        let _ = header.set_groupname(&self.names.group(self.root, stat.st_gid));
        header
    }

    fn shown(&self, below: &Path) -> String {
        super::path::join(self.path.as_str(), &below.to_string_lossy())
    }

    fn failed(&self, below: &Path, errno: Errno) -> FileError {
        FileError::from_errno(errno, &self.shown(below))
    }
}

fn is_virtual(directory: &OwnedFd, name: &OsStr) -> bool {
    open_beneath(directory, name, OFlags::PATH | OFlags::DIRECTORY)
        .and_then(rustix::fs::fstatfs)
        // The field's type differs between architectures.
        .is_ok_and(|file_system| VIRTUAL_FILE_SYSTEMS.contains(&(file_system.f_type as u64)))
}

fn stream_failed(error: &std::io::Error) -> FileError {
    FileError::Failed(format!("write the archive: {error}"))
}

/// Reads exactly as many bytes as the header promised: a file that grew is cut, one that shrank is
/// filled up with zeros.
struct ExactLength {
    file: File,
    left: u64,
    broken: Option<std::io::Error>,
}

impl Read for ExactLength {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let wanted = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let got = match self.file.read(&mut buffer[..wanted]) {
            Ok(0) => {
                buffer[..wanted].fill(0);
                wanted
            }
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let kind = error.kind();
                self.broken = Some(error);
                return Err(kind.into());
            }
        };
        self.left -= got as u64;
        Ok(got)
    }
}
