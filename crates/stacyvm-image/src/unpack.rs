//! Unpacking a layer, or a whole root file system, into a directory of its own.
//!
//! What the archive says is hostile. `stacyvm_tar` reads it and makes files beneath the directory,
//! never through a link. Owns what is the image store's own: whiteouts, owners, and what is left out.
//! MATERIALIZATION.md has every rule.

mod errors;
mod layer_tree;
mod options;
mod outcome;
mod whiteout;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, OFlags, Uid};
use rustix::io::Errno;
use stacyvm_sys::resolve::open_beneath;
use stacyvm_tar::{
    AbsoluteNames, CopyError, Entry, Kind, beneath, clean_name, copy_content, set_mode_and_time,
    set_user_attributes, times,
};

use crate::ImageError;
use crate::archive_entries::for_each_entry;
use crate::archive_stream::{ArchiveStream, unreadable};
use crate::progress::OnProgress;
use errors::{archive_error, explain, name_error};
use layer_tree::LayerTree;
pub use options::Limits;
pub(crate) use options::{ArchiveKind, UnpackOptions};
pub use outcome::Skipped;
pub(crate) use outcome::Unpacked;
use whiteout::Whiteout;

/// How many directories an entry may lie deep.
const MAX_DEPTH: usize = 200;
/// The highest user or group id that a sandbox has.
const MAX_ID: u64 = 65_535;

/// Unpacks all of `stream` into the empty directory `target`.
pub(crate) fn unpack(
    stream: &mut ArchiveStream,
    target: OwnedFd,
    options: UnpackOptions,
    on_progress: &mut OnProgress<'_>,
) -> Result<Unpacked, ImageError> {
    let mut unpacker = Unpacker {
        tree: LayerTree::new(target, options.overlay),
        options,
        done: Unpacked::default(),
        as_root: rustix::process::geteuid().is_root(),
        looks_like_layers: false,
        looks_like_rootfs: false,
        buffer: vec![0; 128 * 1024],
    };
    for_each_entry(
        stream,
        options.limits,
        on_progress,
        &mut |entry, content| {
            unpacker.entry(entry, content)?;
            Ok(unpacker.done.entries)
        },
    )?;
    unpacker.finish()
}

struct Unpacker {
    tree: LayerTree,
    options: UnpackOptions,
    done: Unpacked,
    as_root: bool,
    looks_like_layers: bool,
    looks_like_rootfs: bool,
    buffer: Vec<u8>,
}

/// Where an entry is made.
struct Destination<'a> {
    parent: &'a OwnedFd,
    name: &'a OsStr,
    path: &'a Path,
    /// The path in errors.
    shown: &'a str,
}

impl Destination<'_> {
    fn failed(&self) -> impl Fn(Errno) -> ImageError {
        move |errno| explain(errno, self.shown)
    }
}

impl Unpacker {
    fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), ImageError> {
        let path = self.clean(&entry.name)?;
        self.done.entries += 1;
        if self.done.entries > self.options.limits.entries {
            return Err(ImageError::Limit(format!(
                "more than {} entries",
                self.options.limits.entries
            )));
        }
        self.done.skipped.xattrs += entry.unreadable_records;
        let shown = path.display().to_string();
        let failed = |errno| explain(errno, &shown);
        let Some(name) = path.file_name() else {
            // The root itself.
            return Ok(());
        };
        self.note_looks(&shown);
        let parent_path = path.parent().unwrap_or(Path::new(""));
        match whiteout::read(&path)? {
            Some(Whiteout::Leftover) => {
                self.done.entries -= 1;
                return Ok(());
            }
            Some(Whiteout::Opaque) => return self.tree.hide_all(parent_path).map_err(failed),
            Some(Whiteout::Hidden(hidden)) => {
                return self.tree.hide(parent_path, &hidden).map_err(failed);
            }
            None => {}
        }
        let parent = self.tree.parent(parent_path).map_err(failed)?;
        let destination = Destination {
            parent: &parent,
            name,
            path: &path,
            shown: &shown,
        };
        match entry.kind {
            Kind::Directory => self.directory(entry, &destination)?,
            Kind::File | Kind::SparseFile => self.file(entry, &destination, content)?,
            Kind::Symlink => self.symlink(entry, &destination)?,
            Kind::HardLink => self.hard_link(entry, &destination)?,
            Kind::Special => {
                self.done.entries -= 1;
                self.done.skipped.devices += 1;
            }
            Kind::Unknown => return Err(archive_error(&shown, "is of an unknown kind")),
        }
        self.tree.keep_open(parent_path, parent);
        Ok(())
    }

    /// A name of the archive as a path below the root; empty for the root itself.
    fn clean(&self, name: &[u8]) -> Result<PathBuf, ImageError> {
        let absolute = match self.options.kind {
            ArchiveKind::RootFileSystem => AbsoluteNames::Refused,
            ArchiveKind::Layer => AbsoluteNames::FromRoot,
        };
        clean_name(name, absolute, MAX_DEPTH).map_err(|error| name_error(name, error))
    }

    fn note_looks(&mut self, shown: &str) {
        if matches!(shown, "manifest.json" | "oci-layout") {
            self.looks_like_layers = true;
        }
        if matches!(shown, "usr" | "bin" | "etc" | "sbin" | "lib") {
            self.looks_like_rootfs = true;
        }
    }

    fn directory(&mut self, entry: &Entry, to: &Destination<'_>) -> Result<(), ImageError> {
        self.tree
            .make_directory(to.parent, to.name, to.path)
            .map_err(to.failed())?;
        let mut mode = self.mode(entry, 0o1777);
        if !self.as_root {
            // One that its owner may not write could never be removed.
            mode |= 0o700;
        }
        self.set_owner(entry, to)?;
        let path = to.path.to_owned();
        self.tree.implied.remove(&path);
        self.tree.described.describe(path, mode, entry.modified);
        if !entry.xattrs.is_empty() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let made = open_beneath(to.parent, to.name, flags).map_err(to.failed())?;
            self.set_attributes(made, entry);
        }
        Ok(())
    }

    fn file(
        &mut self,
        entry: &Entry,
        to: &Destination<'_>,
        content: &mut dyn Read,
    ) -> Result<(), ImageError> {
        let create = || beneath::create_file(to.parent, to.name);
        let mut file = self
            .tree
            .replace(to.parent, to.name, to.path, create)
            .map_err(to.failed())?;
        self.copy(content, &mut file)?;
        self.set_owner(entry, to)?;
        let mode = self.mode(entry, 0o777);
        self.set_attributes(&file, entry);
        set_mode_and_time(&file, mode, entry.modified).map_err(to.failed())
    }

    fn copy(&mut self, content: &mut dyn Read, file: &mut File) -> Result<(), ImageError> {
        let (done, limit) = (&mut self.done.bytes, self.options.limits.bytes);
        copy_content(content, file, &mut self.buffer, &mut |got| {
            *done += got;
            match *done > limit {
                true => Err(ImageError::Limit(format!(
                    "its files have more than {limit} bytes"
                ))),
                false => Ok(()),
            }
        })
        .map_err(|error| match error {
            CopyError::Read(error) => unreadable(&error),
            CopyError::Write(error) => ImageError::io("write a file of the image")(error),
            CopyError::Stopped(error) => error,
        })
    }

    fn symlink(&mut self, entry: &Entry, to: &Destination<'_>) -> Result<(), ImageError> {
        let target = OsStr::from_bytes(link_target(entry, to.shown)?);
        let link = || rustix::fs::symlinkat(target, to.parent, to.name);
        self.tree
            .replace(to.parent, to.name, to.path, link)
            .map_err(to.failed())?;
        self.set_owner(entry, to)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(to.parent, to.name, &times(entry.modified), flags)
            .map_err(to.failed())?;
        self.done.skipped.xattrs += entry.xattrs.len() as u64;
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, to: &Destination<'_>) -> Result<(), ImageError> {
        let target = self.clean(link_target(entry, to.shown)?)?;
        if target == to.path {
            return Ok(());
        }
        if target.as_os_str().is_empty() {
            return Err(archive_error(to.shown, "links to a directory"));
        }
        let (from, from_name) =
            beneath::open_link_target(self.tree.root(), &target).map_err(to.failed())?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(&from, from_name, flags).map_err(to.failed())?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Symlink => {}
            FileType::Directory => return Err(archive_error(to.shown, "links to a directory")),
            _ => return Err(explain(Errno::NOENT, to.shown)),
        }
        let link = || beneath::hard_link((&from, from_name), to.parent, to.name);
        self.tree
            .replace(to.parent, to.name, to.path, link)
            .map_err(to.failed())
    }

    /// The permission bits that are kept; counts a setuid or setgid bit that is not.
    fn mode(&mut self, entry: &Entry, allowed: u32) -> u32 {
        if entry.mode & 0o6000 != 0 {
            self.done.skipped.setuid_bits += 1;
        }
        entry.mode & allowed
    }

    fn set_attributes(&mut self, made: impl AsFd, entry: &Entry) {
        self.done.skipped.xattrs += set_user_attributes(made, &entry.xattrs);
    }

    /// Gives the entry its owner, when this process may give files away.
    fn set_owner(&mut self, entry: &Entry, to: &Destination<'_>) -> Result<(), ImageError> {
        let (Some(uid), Some(gid)) = (entry.uid, entry.gid) else {
            return Err(archive_error(to.shown, "has an owner that is no number"));
        };
        let within = |id: u64| u32::try_from(id).ok().filter(|_| id <= MAX_ID);
        let (uid, gid) = match (within(uid), within(gid)) {
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
            to.parent,
            to.name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(to.failed())
    }

    fn finish(mut self) -> Result<Unpacked, ImageError> {
        if self.options.kind == ArchiveKind::RootFileSystem {
            if self.looks_like_layers && !self.looks_like_rootfs {
                return Err(ImageError::Archive(
                    "this archive holds images with their layers, not a root file system: take it with \"stacyvm image load\" (\"docker export\" of a container makes a root file system)".to_owned(),
                ));
            }
            if self.done.entries == 0 {
                return Err(ImageError::Archive("the archive is empty".to_owned()));
            }
        }
        let failed = &mut |path: &Path, errno| match errno {
            // A later entry of the same name replaced it.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Ok(()),
            errno => Err(explain(errno, &path.display().to_string())),
        };
        self.tree.described.apply(self.tree.root(), failed)?;
        self.done.implied = self.tree.implied;
        self.done.opaque = self.tree.opaque;
        Ok(self.done)
    }
}

fn link_target<'a>(entry: &'a Entry, shown: &str) -> Result<&'a [u8], ImageError> {
    entry
        .link_target()
        .ok_or_else(|| archive_error(shown, "is a link without a target"))
}
