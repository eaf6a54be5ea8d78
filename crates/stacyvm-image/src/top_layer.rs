//! The topmost layer of every image: what the image needs beside what its layers bring.
//!
//! Owns the sandbox's user (1000, `user`), the directories that a sandbox needs, and the modes,
//! owners and times of directories that a layer uses without describing them. It is computed from
//! all layers together, and what they have already stays as it is. Its one rule: nothing is read
//! through a link, and nothing is written but below the new layer's root.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use stacyvm_sys::resolve::open_beneath;

use crate::ImageError;
use crate::merged_layers::{MergedEntry, MergedLayers};

/// The id of the sandbox's user and of its group.
const USER_ID: u32 = 1000;

/// The longest `passwd` or `group` file that is amended.
const MAX_ACCOUNT_FILE: u64 = 1024 * 1024;

/// Directories that must be there and must not be links, with mode and owner of a new one.
const DIRECTORIES: [(&str, u32, u32); 9] = [
    ("etc", 0o755, 0),
    ("proc", 0o755, 0),
    ("sys", 0o755, 0),
    ("dev", 0o755, 0),
    ("tmp", 0o1777, 0),
    ("workspace", 0o755, USER_ID),
    ("home", 0o755, 0),
    ("run", 0o755, 0),
    ("root", 0o700, 0),
];

/// Makes the line of an account file for a user or group of this name.
type AccountLine = fn(&str) -> String;

/// Makes the topmost layer in the empty directory `top`. `implied` has, for each layer of `merged`,
/// the directories that it uses without describing them.
pub(crate) fn make_top_layer(
    top: &OwnedFd,
    merged: &MergedLayers,
    implied: &[BTreeSet<PathBuf>],
) -> Result<(), ImageError> {
    let top = TopLayer {
        top,
        merged,
        implied,
    };
    top.copy_described_directories()
        .map_err(ImageError::io("add the looks of directories to the image"))?;
    for (name, mode, owner) in DIRECTORIES {
        top.directory(name, mode, owner)?;
    }
    let name = top.amend("passwd", |name| {
        format!("{name}:x:{USER_ID}:{USER_ID}:{name}:/home/{name}:/bin/sh\n")
    })?;
    top.amend("group", |name| format!("{name}:x:{USER_ID}:\n"))?;
    match name {
        Some(name) => top.directory(&format!("home/{name}"), 0o755, USER_ID),
        None => Ok(()),
    }
}

struct TopLayer<'a> {
    top: &'a OwnedFd,
    merged: &'a MergedLayers,
    implied: &'a [BTreeSet<PathBuf>],
}

impl TopLayer<'_> {
    /// Gives implied directories the mode, owner and times that a layer below describes.
    fn copy_described_directories(&self) -> Result<(), Errno> {
        for (layer, path) in self.implied.iter().enumerate().flat_map(|(layer, paths)| {
            let numbered = move |path| (layer, path);
            paths.iter().map(numbered)
        }) {
            let shown = self.merged.entries(path)?;
            // Only where this layer is the topmost, so that its own mode would show.
            let shows = shown
                .first()
                .is_some_and(|first| first.layer == layer && first.kind() == FileType::Directory);
            if shows && self.described(&shown, path).is_some() {
                self.copy_directory(path)?;
            }
        }
        Ok(())
    }

    /// The topmost layer that describes the directory.
    fn described<'f>(&self, shown: &'f [MergedEntry], path: &Path) -> Option<&'f MergedEntry> {
        shown
            .iter()
            .find(|found| !self.implied[found.layer].contains(path))
    }

    /// Makes the directory `path`, which the layers have, in this one too, with mode, owner and times
    /// as there.
    fn copy_directory(&self, path: &Path) -> Result<(), Errno> {
        let mut so_far = PathBuf::new();
        for name in path {
            so_far.push(name);
            let parent = self.parent(&so_far)?;
            match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(errno),
            }
            let shown = self.merged.entries(&so_far)?;
            if let Some(found) = self.described(&shown, &so_far).or(shown.first()) {
                let made = open_beneath(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                copy_metadata(&made, &found.stat)?;
            }
        }
        Ok(())
    }

    fn parent(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        open_beneath(self.top, parent, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Makes the directory `path` when no layer has anything there. Its parent is there.
    fn directory(&self, path: &str, mode: u32, owner: u32) -> Result<(), ImageError> {
        let step = ImageError::io::<Errno>("add a directory to the image");
        let path = Path::new(path);
        match self.merged.topmost(path) {
            Ok(None) => {}
            Ok(Some(found)) if found.kind() == FileType::Directory => return Ok(()),
            // A sandbox mounts over some of these; a link there would lead the mount astray.
            Ok(Some(_)) => {
                return Err(ImageError::Archive(format!(
                    "\"/{}\" of the image is not a directory",
                    path.display()
                )));
            }
            Err(errno) => return Err(step(errno)),
        }
        let make = || {
            if let Some(parent) = path.parent()
                && self.merged.topmost(parent)?.is_some()
            {
                self.copy_directory(parent)?;
            }
            let parent = self.parent(path)?;
            let name = path.file_name().unwrap_or_default();
            rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
            let made = open_beneath(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            own(&made, owner, owner)?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))
        };
        make().map_err(step)
    }

    /// Writes a table of names as the layers have it, with a line for the sandbox's user when its
    /// number has none. Answers the name that was added. A table that is not a plain file stays as
    /// it is.
    fn amend(&self, table: &str, line: AccountLine) -> Result<Option<String>, ImageError> {
        let step = "add the sandbox's user to the image";
        let Some(mut content) = self.read(table).map_err(ImageError::io(step))? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&content);
        let number = USER_ID.to_string();
        let field =
            |line: &str, field: usize, value: &str| line.split(':').nth(field) == Some(value);
        let known = text.lines().any(|line| field(line, 2, &number));
        let name = match text.lines().any(|line| field(line, 0, "user")) {
            true => "user1000",
            false => "user",
        };
        if !known {
            if !content.is_empty() && !content.ends_with(b"\n") {
                content.push(b'\n');
            }
            content.extend_from_slice(line(name).as_bytes());
        }
        self.write(table, &content).map_err(ImageError::io(step))?;
        Ok((!known).then(|| name.to_owned()))
    }

    /// The table as the layers have it, or a new one when they have none.
    fn read(&self, table: &str) -> Result<Option<Vec<u8>>, std::io::Error> {
        let path = Path::new("etc").join(table);
        let Some(found) = self.merged.topmost(&path)? else {
            return Ok(Some(match table {
                "passwd" => b"root:x:0:0:root:/root:/bin/sh\n".to_vec(),
                _ => b"root:x:0:\n".to_vec(),
            }));
        };
        if found.kind() != FileType::RegularFile {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let file = open_beneath(&found.parent, table, flags)?;
        let mut content = Vec::new();
        File::from(file)
            .take(MAX_ACCOUNT_FILE + 1)
            .read_to_end(&mut content)?;
        Ok((content.len() as u64 <= MAX_ACCOUNT_FILE).then_some(content))
    }

    fn write(&self, table: &str, content: &[u8]) -> Result<(), std::io::Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let etc = Path::new("etc");
        if self.merged.topmost(etc)?.is_some() {
            self.copy_directory(etc)?;
        }
        let etc = open_beneath(self.top, etc, OFlags::PATH | OFlags::DIRECTORY)?;
        let file = rustix::fs::openat(&etc, table, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(file);
        file.write_all(content)?;
        own(&file, 0, 0)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
        Ok(())
    }
}

/// Gives a directory the mode, owner and times of another.
fn copy_metadata(made: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    own(made, stat.st_uid, stat.st_gid)?;
    rustix::fs::fchmod(made, Mode::from_raw_mode(stat.st_mode & 0o1777))?;
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let modified = time(stat.st_mtime as _, stat.st_mtime_nsec as _);
    rustix::fs::futimens(
        made,
        &Timestamps {
            last_access: modified,
            last_modification: modified,
        },
    )
}

fn own(file: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}
