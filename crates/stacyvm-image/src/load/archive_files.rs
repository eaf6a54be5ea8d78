//! The files of an archive, by their names in it, whether it is a tar or a directory.
//!
//! The files of a tar are stored in a work directory under numbers: a name in the archive never
//! becomes the name of a file.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use stacyvm_sys::resolve::open_beneath;
use stacyvm_tar::{CopyError, Kind, copy_content};

use crate::archive_entries::for_each_entry;
use crate::archive_stream::{ArchiveStream, unreadable};
use crate::store::WorkDirectory;
use crate::unpack::Limits;
use crate::{ImageError, Progress};

/// How many files an archive of images may have: a few for each layer.
const MAX_FILES: usize = 20_000;
/// How many links may lead to a file.
const MAX_LINKS: usize = 8;

/// The files of an archive.
pub(super) enum ArchiveFiles {
    Directory(OwnedFd),
    Tar {
        /// Where each file is.
        files: HashMap<PathBuf, PathBuf>,
        /// Where links lead: old versions of Docker write a layer once and link to it.
        links: HashMap<PathBuf, PathBuf>,
    },
}

impl ArchiveFiles {
    /// Opens a directory, or takes a tar apart into `work`.
    pub(super) fn open(
        archive: &Path,
        work: &WorkDirectory,
        limits: Limits,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ImageError> {
        let file = File::open(archive).map_err(ImageError::io("open the archive"))?;
        let metadata = file
            .metadata()
            .map_err(ImageError::io("open the archive"))?;
        if metadata.is_dir() {
            return Ok(Self::Directory(file.into()));
        }
        let place = work.make_directory("archive")?;
        let mut stream = ArchiveStream::open(file)?;
        let (mut files, mut links, mut bytes) = (HashMap::new(), HashMap::new(), 0_u64);
        let mut on_progress = |now| {
            progress(now);
            Ok(())
        };
        let mut number = 0_u64;
        for_each_entry(
            &mut stream,
            limits,
            &mut on_progress,
            &mut |entry, content| {
                number += 1;
                if files.len() + links.len() > MAX_FILES {
                    return Err(ImageError::Limit(format!("more than {MAX_FILES} files")));
                }
                let Some(path) = clean(Path::new(std::ffi::OsStr::from_bytes(&entry.name))) else {
                    return Ok(number);
                };
                let target = entry.link.as_deref().map(std::ffi::OsStr::from_bytes);
                match (entry.kind, target) {
                    (Kind::File, _) => {
                        let there = place.join(number.to_string());
                        bytes += write(&there, content, limits.bytes - bytes)?;
                        files.insert(path, there);
                    }
                    (Kind::Symlink, Some(target)) => {
                        let from = path.parent().unwrap_or(Path::new(""));
                        if let Some(target) = clean(&from.join(target)) {
                            links.insert(path, target);
                        }
                    }
                    (Kind::HardLink, Some(target)) => {
                        if let Some(target) = clean(Path::new(target)) {
                            links.insert(path, target);
                        }
                    }
                    _ => {}
                }
                Ok(number)
            },
        )?;
        Ok(Self::Tar { files, links })
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.open_file(Path::new(name)).is_ok()
    }

    /// Opens a file by its name in the archive.
    pub(super) fn open_file(&self, path: &Path) -> Result<File, ImageError> {
        let missing = || {
            let shown: String = path.display().to_string().chars().take(120).collect();
            ImageError::Archive(format!("the archive has no {shown:?}"))
        };
        let mut wanted = clean(path).ok_or_else(missing)?;
        match self {
            Self::Directory(directory) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                let file = open_beneath(directory, &wanted, flags).map_err(|_| missing())?;
                let stat = rustix::fs::fstat(&file).map_err(|_| missing())?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => Ok(file.into()),
                    _ => Err(missing()),
                }
            }
            Self::Tar { files, links } => {
                for _ in 0..=MAX_LINKS {
                    if let Some(place) = files.get(&wanted) {
                        return File::open(place).map_err(ImageError::io("read the archive"));
                    }
                    wanted = links.get(&wanted).ok_or_else(missing)?.clone();
                }
                Err(missing())
            }
        }
    }
}

/// A path without `.` and `..`, seen from the archive's root; none when it leaves that.
fn clean(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!clean.as_os_str().is_empty()).then_some(clean)
}

/// Writes content of at most `limit` bytes; answers how many there were.
fn write(place: &Path, content: &mut dyn Read, limit: u64) -> Result<u64, ImageError> {
    let step = "take the archive apart";
    let mut file = File::create_new(place).map_err(ImageError::io(step))?;
    let mut buffer = vec![0; 256 * 1024];
    let mut written = 0;
    copy_content(content, &mut file, &mut buffer, &mut |got| {
        written += got;
        match written > limit {
            true => Err(ImageError::Limit(
                "its layers have too many bytes together".to_owned(),
            )),
            false => Ok(()),
        }
    })
    .map_err(|error| match error {
        CopyError::Read(error) => unreadable(&error),
        CopyError::Write(error) => ImageError::io(step)(error),
        CopyError::Stopped(error) => error,
    })?;
    Ok(written)
}
