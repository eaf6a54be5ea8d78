//! Unpacking a layer, or a whole root file system, into a directory of its own.
//!
//! What the archive says is hostile. Its rule: each entry's directory is opened from the target by
//! `openat2`, never through a link and never out of the target, and the entry itself is made under
//! its last name with calls that do not follow links. MATERIALIZATION.md has the whole list.

pub(crate) mod entries;
mod tree;
mod whiteout;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tar::EntryType;

use crate::ImageError;
use crate::marks::{self, Marks};
use crate::stream::{Stream, broken};
use entries::Member;
pub(crate) use tree::open_beneath;
use tree::{archive_error, clean, explain, remove, times};
use whiteout::Whiteout;

/// How many ids a sandbox has: a file of a higher one would belong to nobody in it.
const MAX_ID: u64 = 65_535;
/// How many directories that only other entries name are remembered.
const MAX_IMPLIED: usize = 10_000;

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
#[serde(default)]
pub struct Skipped {
    /// Device nodes and named pipes: not made.
    pub devices: u64,
    /// Files that lost their setuid or setgid bit.
    pub setuid_bits: u64,
    /// Files whose owner or group is beyond what a sandbox has: given to root.
    pub foreign_ids: u64,
    /// Extended attributes other than `user.`, and those that the disk does not take.
    pub xattrs: u64,
}

impl Skipped {
    /// Adds what another layer lost.
    pub(crate) fn add(&mut self, other: Self) {
        self.devices += other.devices;
        self.setuid_bits += other.setuid_bits;
        self.foreign_ids += other.foreign_ids;
        self.xattrs += other.xattrs;
    }
}

/// What was unpacked.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    pub(crate) skipped: Skipped,
    /// Directories that no entry describes, in a layer: what is below says what they are like.
    pub(crate) implied: BTreeSet<PathBuf>,
    /// Whether nothing of the layers below shows.
    pub(crate) opaque: bool,
}

/// How an archive is unpacked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) limits: Limits,
    pub(crate) marks: Marks,
    /// Whether this is to be a root file system and not a layer of one.
    pub(crate) whole: bool,
}

/// Told after each entry how far the stream is and how many entries there were; ends the
/// unpacking by an error.
pub(crate) type Watch<'a> = dyn FnMut(&Stream, u64) -> Result<(), ImageError> + 'a;

/// Unpacks all of `stream` into the empty directory `target`.
pub(crate) fn unpack(
    stream: &mut Stream,
    target: OwnedFd,
    manner: Manner,
    watch: &mut Watch<'_>,
) -> Result<Unpacked, ImageError> {
    let mut unpacker = Unpacker {
        target,
        manner,
        done: Unpacked::default(),
        directories: BTreeMap::new(),
        as_root: rustix::process::geteuid().is_root(),
        looks_like_layers: false,
        looks_like_rootfs: false,
        last: None,
        buffer: vec![0; 128 * 1024],
    };
    entries::for_each(stream, manner.limits, watch, &mut |member, content| {
        unpacker.member(member, content)?;
        Ok(unpacker.done.entries)
    })?;
    unpacker.finish()
}

struct Unpacker {
    target: OwnedFd,
    manner: Manner,
    done: Unpacked,
    /// Permission bits and time of directories, given to them when everything is in them.
    directories: BTreeMap<PathBuf, (u32, u64)>,
    as_root: bool,
    looks_like_layers: bool,
    looks_like_rootfs: bool,
    /// The directory of the last entry: the next one is mostly in the same.
    last: Option<(PathBuf, OwnedFd)>,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn member(&mut self, member: &Member, content: &mut dyn Read) -> Result<(), ImageError> {
        let path = clean(&member.path, self.manner.whole)?;
        self.done.entries += 1;
        if self.done.entries > self.manner.limits.entries {
            return Err(ImageError::Limit(format!(
                "more than {} entries",
                self.manner.limits.entries
            )));
        }
        self.done.skipped.xattrs += member.unreadable_xattrs;
        let shown = path.display().to_string();
        let failed = |errno| explain(errno, &shown);
        let Some(name) = path.file_name() else {
            // The root itself.
            return Ok(());
        };
        self.look(&shown);
        let place = path.parent().unwrap_or(Path::new(""));
        match whiteout::read(&path)? {
            Some(Whiteout::Leftover) => {
                self.done.entries -= 1;
                return Ok(());
            }
            Some(Whiteout::Opaque) => return self.opaque(place).map_err(failed),
            Some(Whiteout::Gone(gone)) => return self.gone(place, gone).map_err(failed),
            None => {}
        }
        let directory = self.parent(place).map_err(failed)?;
        match member.kind {
            EntryType::Directory => {
                self.directory(&directory, name, &path).map_err(failed)?;
                let bits = self.bits(member.mode, 0o1777);
                self.own(&directory, name, member).map_err(failed)?;
                self.directories
                    .insert(path.clone(), (bits, member.modified));
                self.done.implied.remove(&path);
                if !member.xattrs.is_empty() {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                    let made = open_beneath(&directory, name, flags).map_err(failed)?;
                    self.attributes(made, member);
                }
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let file = self
                    .place(&directory, name, &path, || create(&directory, name))
                    .map_err(failed)?;
                self.file(file.into(), &directory, name, member, content, &shown)?;
            }
            EntryType::Symlink => {
                let target = OsStr::from_bytes(link_target(member, &shown)?);
                self.place(&directory, name, &path, || {
                    rustix::fs::symlinkat(target, &directory, name)
                })
                .map_err(failed)?;
                self.own(&directory, name, member).map_err(failed)?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(&directory, name, &times(member.modified), flags)
                    .map_err(failed)?;
                self.done.skipped.xattrs += member.xattrs.len() as u64;
            }
            EntryType::Link => {
                let target = clean(link_target(member, &shown)?, self.manner.whole)?;
                self.hard_link(&directory, name, &path, &target, &shown)?;
            }
            EntryType::Block | EntryType::Char | EntryType::Fifo => {
                self.done.entries -= 1;
                self.done.skipped.devices += 1;
            }
            _ => return Err(archive_error(&shown, "is of an unknown kind")),
        }
        self.last = Some((place.to_owned(), directory));
        Ok(())
    }

    fn look(&mut self, shown: &str) {
        if matches!(shown, "manifest.json" | "oci-layout") {
            self.looks_like_layers = true;
        }
        if matches!(shown, "usr" | "bin" | "etc" | "sbin" | "lib") {
            self.looks_like_rootfs = true;
        }
    }

    /// Makes a directory, or keeps the one that is there.
    fn directory(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Errno> {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            // Named twice, or made for what came before it.
            return Ok(());
        }
        self.make_way(parent, name, path)?;
        rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
        if marks::is_whiteout(&stat) {
            // What is below was taken away before this one came.
            self.manner.marks.set_opaque(parent, name)?;
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        path: &Path,
        target: &Path,
        shown: &str,
    ) -> Result<(), ImageError> {
        let failed = |errno| explain(errno, shown);
        if target == path {
            return Ok(());
        }
        let (Some(from), Some(from_name)) = (target.parent(), target.file_name()) else {
            return Err(archive_error(shown, "links to a directory"));
        };
        let from = match from.as_os_str().is_empty() {
            true => Path::new("."),
            false => from,
        };
        let from =
            open_beneath(&self.target, from, OFlags::PATH | OFlags::DIRECTORY).map_err(failed)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(&from, from_name, flags).map_err(failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Symlink => {}
            FileType::Directory => return Err(archive_error(shown, "links to a directory")),
            _ => return Err(failed(Errno::NOENT)),
        }
        self.place(directory, name, path, || {
            // Without AT_SYMLINK_FOLLOW a link is linked itself.
            rustix::fs::linkat(&from, from_name, directory, name, AtFlags::empty())
        })
        .map_err(failed)
    }

    fn file(
        &mut self,
        mut file: File,
        directory: &OwnedFd,
        name: &OsStr,
        member: &Member,
        content: &mut dyn Read,
        shown: &str,
    ) -> Result<(), ImageError> {
        let failed = |errno| explain(errno, shown);
        loop {
            let got = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(&error)),
            };
            self.done.bytes += got as u64;
            if self.done.bytes > self.manner.limits.bytes {
                return Err(ImageError::Limit(format!(
                    "its files have more than {} bytes",
                    self.manner.limits.bytes
                )));
            }
            file.write_all(&self.buffer[..got])
                .map_err(ImageError::io("write a file of the image"))?;
        }
        self.own(directory, name, member).map_err(failed)?;
        let bits = self.bits(member.mode, 0o777);
        if !member.xattrs.is_empty() {
            self.attributes(&file, member);
        }
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

    /// Gives a file or directory the attributes that mean nothing to the system.
    fn attributes(&mut self, made: impl AsFd, member: &Member) {
        for (name, value) in &member.xattrs {
            let harmless = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
            let kept = harmless
                && !name.contains(&0)
                && rustix::fs::fsetxattr(&made, name.as_slice(), value, XattrFlags::empty())
                    .is_ok();
            if !kept {
                self.done.skipped.xattrs += 1;
            }
        }
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

    /// Makes something under a name, in place of what is there.
    fn place<T>(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        path: &Path,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match make() {
            Err(Errno::EXIST) => {
                self.make_way(directory, name, path)?;
                make()
            }
            other => other,
        }
    }

    /// Removes what an entry of the same name left, a directory with all that is in it.
    fn make_way(&mut self, directory: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Errno> {
        if remove(directory, name)? {
            self.last = None;
            let below = |known: &&PathBuf| known.starts_with(path);
            let gone: Vec<PathBuf> = self
                .directories
                .range(path.to_owned()..)
                .map(|(known, _)| known)
                .take_while(below)
                .chain(self.done.implied.range(path.to_owned()..).take_while(below))
                .cloned()
                .collect();
            for path in gone {
                self.directories.remove(&path);
                self.done.implied.remove(&path);
            }
        }
        Ok(())
    }

    /// The directory `path` below the target, made when it is missing.
    fn parent(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.last.take() {
            Some((known, directory)) if known == path => return Ok(directory),
            _ => {}
        }
        if path.as_os_str().is_empty() {
            return open_beneath(&self.target, Path::new("."), flags);
        }
        match open_beneath(&self.target, path, flags) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            other => return other,
        }
        let mut here = open_beneath(&self.target, Path::new("."), flags)?;
        let mut so_far = PathBuf::new();
        for name in path {
            so_far.push(name);
            here = match open_beneath(&here, name, flags) {
                Err(Errno::NOENT) => {
                    self.implied(&here, name, &so_far)?;
                    open_beneath(&here, name, flags)?
                }
                Err(Errno::NOTDIR) => {
                    let stat = rustix::fs::statat(&here, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    if !marks::is_whiteout(&stat) {
                        return Err(Errno::NOTDIR);
                    }
                    remove(&here, name)?;
                    self.implied(&here, name, &so_far)?;
                    self.manner.marks.set_opaque(&here, name)?;
                    open_beneath(&here, name, flags)?
                }
                other => other?,
            };
        }
        Ok(here)
    }

    /// Makes a directory that no entry has described yet.
    fn implied(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Errno> {
        rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
        let made = open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fchmod(made, Mode::from_raw_mode(0o755))?;
        if self.done.implied.len() < MAX_IMPLIED {
            self.done.implied.insert(path.to_owned());
        }
        Ok(())
    }

    /// Hides what the layers below have under this name.
    fn gone(&mut self, place: &Path, gone: OsString) -> Result<(), Errno> {
        let directory = self.parent(place)?;
        match rustix::fs::statat(&directory, &gone, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => marks::make_whiteout(&directory, &gone)?,
            Err(errno) => return Err(errno),
            // This layer's own stay: only what is below is gone.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.manner.marks.set_opaque(&directory, &gone)?;
            }
            Ok(_) => {}
        }
        self.last = Some((place.to_owned(), directory));
        Ok(())
    }

    /// Hides all that the layers below have in a directory.
    fn opaque(&mut self, place: &Path) -> Result<(), Errno> {
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
            // Overlayfs does not look at the mark of a root.
            self.done.opaque = true;
            return Ok(());
        };
        drop(self.parent(place)?);
        let parent = self.parent(parent)?;
        self.manner.marks.set_opaque(&parent, name)
    }

    fn finish(self) -> Result<Unpacked, ImageError> {
        if self.manner.whole {
            if self.looks_like_layers && !self.looks_like_rootfs {
                return Err(ImageError::Archive(
                    "this archive holds images with their layers, not a root file system: take it with \"stacyvm image load\" (\"docker export\" of a container makes a root file system)".to_owned(),
                ));
            }
            if self.done.entries == 0 {
                return Err(ImageError::Archive("the archive is empty".to_owned()));
            }
        }
        // What is deeper comes later in the order of paths; its own mode may close the way to it.
        for (path, (bits, modified)) in self.directories.iter().rev() {
            let failed = |errno| explain(errno, &path.display().to_string());
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = match open_beneath(&self.target, path, flags) {
                Ok(directory) => directory,
                // Replaced by a later entry of the same name.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            rustix::fs::futimens(&directory, &times(*modified)).map_err(failed)?;
            // Without root, a directory that its owner may not write could never be removed.
            let bits = if self.as_root { *bits } else { *bits | 0o700 };
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(bits)).map_err(failed)?;
        }
        Ok(self.done)
    }
}

/// Makes a new file, never through a link.
fn create(directory: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::NOFOLLOW
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
}

fn link_target<'a>(member: &'a Member, shown: &str) -> Result<&'a [u8], ImageError> {
    match member.link.as_deref() {
        Some(target) if !target.is_empty() && !target.contains(&0) => Ok(target),
        _ => Err(archive_error(shown, "is a link without a target")),
    }
}
