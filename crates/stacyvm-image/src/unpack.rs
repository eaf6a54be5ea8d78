//! Unpacking a root file system.
//!
//! What the archive says is hostile. Its rule: each entry's directory is opened from the target by
//! `openat2`, never through a link and never out of the target, and the entry itself is made under
//! its last name with calls that do not follow links. MATERIALIZATION.md has the whole list.

mod entries;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tar::EntryType;

use crate::ImageError;
use crate::store::Source;
use entries::Member;

/// How many ids a sandbox has: a file of a higher one would belong to nobody in it.
const MAX_ID: u64 = 65_535;

/// How large an image may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 64 * 1024 * 1024 * 1024,
            entries: 4_000_000,
        }
    }
}

/// What of an archive was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Device nodes and named pipes: not made.
    pub devices: u64,
    /// Files that lost their setuid or setgid bit.
    pub setuid_bits: u64,
    /// Files whose owner or group is beyond what a sandbox has: given to root.
    pub foreign_ids: u64,
}

/// What was unpacked.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    pub(crate) skipped: Skipped,
}

/// Unpacks all of `source` into the empty directory `target`.
pub(crate) fn unpack(
    source: &mut Source,
    target: OwnedFd,
    limits: Limits,
    progress: &mut dyn FnMut(&Source, u64),
) -> Result<Unpacked, ImageError> {
    let mut unpacker = Unpacker {
        target,
        limits,
        done: Unpacked::default(),
        directories: HashMap::new(),
        as_root: rustix::process::geteuid().is_root(),
        looks_like_layers: false,
        looks_like_rootfs: false,
    };
    entries::for_each(source, limits, progress, &mut |member, content| {
        unpacker.member(member, content)?;
        Ok(unpacker.done.entries)
    })?;
    unpacker.finish()
}

struct Unpacker {
    target: OwnedFd,
    limits: Limits,
    done: Unpacked,
    /// Permission bits and time of directories, given to them when everything is in them.
    directories: HashMap<PathBuf, (u32, u64)>,
    as_root: bool,
    looks_like_layers: bool,
    looks_like_rootfs: bool,
}

impl Unpacker {
    fn member(&mut self, member: &Member, content: &mut dyn Read) -> Result<(), ImageError> {
        let path = clean(&member.path)?;
        self.done.entries += 1;
        if self.done.entries > self.limits.entries {
            return Err(ImageError::Limit(format!(
                "more than {} entries",
                self.limits.entries
            )));
        }
        let shown = path.display().to_string();
        let failed = |errno| explain(errno, &shown);
        let Some(name) = path.file_name() else {
            // The root itself.
            return Ok(());
        };
        if matches!(shown.as_str(), "manifest.json" | "oci-layout") {
            self.looks_like_layers = true;
        }
        if matches!(shown.as_str(), "usr" | "bin" | "etc" | "sbin" | "lib") {
            self.looks_like_rootfs = true;
        }
        let directory = self
            .parent(path.parent().unwrap_or(Path::new("")))
            .map_err(failed)?;
        match member.kind {
            EntryType::Directory => {
                match rustix::fs::mkdirat(&directory, name, Mode::RWXU) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        // Named twice, or made for what came before it.
                        open_beneath(&directory, name, OFlags::PATH | OFlags::DIRECTORY)
                            .map_err(failed)?;
                    }
                    Err(errno) => return Err(failed(errno)),
                }
                let bits = self.bits(member.mode, 0o1777);
                self.own(&directory, name, member).map_err(failed)?;
                self.directories.insert(path, (bits, member.modified));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                make_way(&directory, name).map_err(failed)?;
                self.file(&directory, name, member, content, &shown)?;
            }
            EntryType::Symlink => {
                let target = OsStr::from_bytes(link_target(member, &shown)?);
                make_way(&directory, name).map_err(failed)?;
                rustix::fs::symlinkat(target, &directory, name).map_err(failed)?;
                self.own(&directory, name, member).map_err(failed)?;
            }
            EntryType::Link => {
                let target = clean(link_target(member, &shown)?)?;
                if target == path {
                    return Ok(());
                }
                let (Some(from), Some(from_name)) = (target.parent(), target.file_name()) else {
                    return Err(failed(Errno::ISDIR));
                };
                let from = match from.as_os_str().is_empty() {
                    true => Path::new("."),
                    false => from,
                };
                let from = open_beneath(&self.target, from, OFlags::PATH | OFlags::DIRECTORY)
                    .map_err(failed)?;
                make_way(&directory, name).map_err(failed)?;
                // Without AT_SYMLINK_FOLLOW a link is linked itself.
                rustix::fs::linkat(&from, from_name, &directory, name, AtFlags::empty())
                    .map_err(failed)?;
            }
            EntryType::Block | EntryType::Char | EntryType::Fifo => {
                self.done.entries -= 1;
                self.done.skipped.devices += 1;
            }
            _ => {
                return Err(ImageError::Archive(format!(
                    "archive entry {shown:?} is of an unknown kind"
                )));
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        member: &Member,
        content: &mut dyn Read,
        shown: &str,
    ) -> Result<(), ImageError> {
        let failed = |errno| explain(errno, shown);
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let mut file = File::from(file);
        let mut buffer = vec![0_u8; 128 * 1024];
        loop {
            let got = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(entries::broken(&error)),
            };
            self.done.bytes += got as u64;
            if self.done.bytes > self.limits.bytes {
                return Err(ImageError::Limit(format!(
                    "its files have more than {} bytes",
                    self.limits.bytes
                )));
            }
            file.write_all(&buffer[..got])
                .map_err(ImageError::io("write a file of the image"))?;
        }
        self.own(directory, name, member).map_err(failed)?;
        let bits = self.bits(member.mode, 0o777);
        rustix::fs::fchmod(&file, Mode::from_raw_mode(bits)).map_err(failed)?;
        rustix::fs::futimens(&file, &times(member.modified)).map_err(failed)
    }

    /// The permission bits that are kept; counts a setuid or setgid bit that is not.
    fn bits(&mut self, mode: u32, allowed: u32) -> u32 {
        if mode & 0o6000 != 0 {
            self.done.skipped.setuid_bits += 1;
        }
        mode & allowed
    }

    /// Gives `name` its owner, when we may give files away.
    fn own(&mut self, directory: &OwnedFd, name: &OsStr, member: &Member) -> Result<(), Errno> {
        let within = |id: u64| u32::try_from(id).ok().filter(|_| id <= MAX_ID);
        let (uid, gid) = match (within(member.uid), within(member.gid)) {
            (Some(uid), Some(gid)) => (uid, gid),
            (uid, gid) => {
                self.done.skipped.foreign_ids += 1;
                (uid.unwrap_or(0), gid.unwrap_or(0))
            }
        };
        if !self.as_root {
            return Ok(());
        }
        rustix::fs::chownat(
            directory,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }

    /// The directory `path` below the target, made when it is missing.
    fn parent(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        if path.as_os_str().is_empty() {
            return open_beneath(&self.target, Path::new("."), flags);
        }
        match open_beneath(&self.target, path, flags) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut here = open_beneath(&self.target, Path::new("."), flags)?;
        for name in path {
            here = match open_beneath(&here, name, flags) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755))?;
                    open_beneath(&here, name, flags)?
                }
                other => other?,
            };
        }
        Ok(here)
    }

    fn finish(self) -> Result<Unpacked, ImageError> {
        if self.looks_like_layers && !self.looks_like_rootfs {
            return Err(ImageError::Archive(
                "this archive holds image layers, not a root file system; make one with \"docker export\" of a container instead of \"docker save\"".to_owned(),
            ));
        }
        if self.done.entries == 0 {
            return Err(ImageError::Archive("the archive is empty".to_owned()));
        }
        let mut directories: Vec<_> = self.directories.into_iter().collect();
        // The deepest first: a mode may close the way to what is below.
        directories.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, (bits, modified)) in directories {
            let failed = |errno| explain(errno, &path.display().to_string());
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = match open_beneath(&self.target, &path, flags) {
                Ok(directory) => directory,
                // Replaced by a later entry of the same name.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            rustix::fs::futimens(&directory, &times(modified)).map_err(failed)?;
            // Without root, a directory that its owner may not write could never be removed.
            let bits = if self.as_root { bits } else { bits | 0o700 };
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(bits)).map_err(failed)?;
        }
        Ok(self.done)
    }
}

/// Opens `path` below `base`, never through a link and never out of `base`.
pub(crate) fn open_beneath(
    base: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match rustix::fs::openat2(
            base.as_fd(),
            path.as_ref(),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            how,
        ) {
            Err(Errno::AGAIN | Errno::INTR) if attempts < 128 => {}
            result => return result,
        }
    }
}

/// A name of the archive as a relative path without `.`; empty for the root itself.
fn clean(bytes: &[u8]) -> Result<PathBuf, ImageError> {
    let refused = |reason: &str| {
        let shown: String = String::from_utf8_lossy(bytes).chars().take(80).collect();
        Err(ImageError::Archive(format!(
            "archive entry {shown:?} {reason}"
        )))
    };
    if bytes.starts_with(b"/") {
        return refused("is absolute and would leave the image");
    }
    if bytes.contains(&0) {
        return refused("has a NUL byte in its name");
    }
    let mut path = PathBuf::new();
    for part in bytes.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refused("has a \"..\" and would leave the image"),
            name => path.push(OsStr::from_bytes(name)),
        }
    }
    Ok(path)
}

fn link_target<'a>(member: &'a Member, shown: &str) -> Result<&'a [u8], ImageError> {
    match member.link.as_deref() {
        Some(target) if !target.is_empty() && !target.contains(&0) => Ok(target),
        _ => Err(ImageError::Archive(format!(
            "archive entry {shown:?} is a link without a target"
        ))),
    }
}

/// Removes what an entry of the same name left.
fn make_way(directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Failures that the archive caused are told as such, the others as the system's.
fn explain(errno: Errno, shown: &str) -> ImageError {
    let shown: String = shown.chars().take(80).collect();
    let reason = match errno {
        Errno::LOOP | Errno::XDEV => "goes through a link",
        Errno::NOTDIR => "goes through a file that is no directory",
        Errno::ISDIR | Errno::EXIST => "takes the place of a directory",
        Errno::NOENT => "links to an entry that is not there",
        Errno::NAMETOOLONG => "has a name that is too long",
        Errno::PERM => "cannot be made like this",
        other => return ImageError::io("unpack the archive")(other),
    };
    ImageError::Archive(format!("archive entry {shown:?} {reason}"))
}

fn times(modified: u64) -> Timestamps {
    let time = Timespec {
        // Later than any calendar: the file system cuts it.
        tv_sec: i64::try_from(modified).unwrap_or(0),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
