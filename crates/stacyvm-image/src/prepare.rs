//! What every image has besides what its archive brings.
//!
//! Owns the sandbox's user (1000, `user`) and the directories that a sandbox needs. What is there
//! already stays as it is.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::ImageError;
use crate::unpack::open_beneath;

/// The sandbox's user and group.
const USER: u32 = 1000;

/// The longest `passwd` or `group` file that is amended.
const MAX_TABLE: u64 = 1024 * 1024;

/// Directories that must be there and must not be links, with mode and owner of a new one.
const DIRECTORIES: [(&str, u32, u32); 9] = [
    ("etc", 0o755, 0),
    ("proc", 0o755, 0),
    ("sys", 0o755, 0),
    ("dev", 0o755, 0),
    ("tmp", 0o1777, 0),
    ("workspace", 0o755, USER),
    ("home", 0o755, 0),
    ("run", 0o755, 0),
    ("root", 0o700, 0),
];

/// Adds what is missing to the unpacked image `root`.
pub(crate) fn prepare(root: &OwnedFd) -> Result<(), ImageError> {
    for (name, mode, owner) in DIRECTORIES {
        directory(root, name, mode, owner)?;
    }
    let etc = open_beneath(root, "etc", OFlags::PATH | OFlags::DIRECTORY)
        .map_err(ImageError::io("open the image's /etc"))?;
    let name = amend(&etc, "passwd", |name| {
        format!("{name}:x:{USER}:{USER}:{name}:/home/{name}:/bin/sh\n")
    })?;
    amend(&etc, "group", |name| format!("{name}:x:{USER}:\n"))?;
    if let Some(name) = name {
        let home = open_beneath(root, "home", OFlags::PATH | OFlags::DIRECTORY)
            .map_err(ImageError::io("open the image's /home"))?;
        directory(&home, &name, 0o755, USER)?;
    }
    Ok(())
}

/// Makes the directory `name` when nothing is there.
fn directory(parent: &OwnedFd, name: &str, mode: u32, owner: u32) -> Result<(), ImageError> {
    let step = ImageError::io::<Errno>("add a directory to the image");
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(step)?;
            // A sandbox mounts over some of these; a link there would lead the mount astray.
            return match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Ok(()),
                _ => Err(ImageError::Archive(format!(
                    "\"/{name}\" of the image is not a directory"
                ))),
            };
        }
        Err(errno) => return Err(step(errno)),
    }
    let made = open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY);
    made.and_then(|made| {
        own(&made, owner)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))
    })
    .map_err(step)
}

/// Adds a line for the sandbox's user to a table of names when its number has none. Answers the
/// name that was added. A table that is not a plain file stays as it is.
fn amend(
    etc: &OwnedFd,
    table: &str,
    line: impl Fn(&str) -> String,
) -> Result<Option<String>, ImageError> {
    let step = "add the sandbox's user to the image";
    let mut content = Vec::new();
    match open_beneath(etc, table, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => {
            let stat = rustix::fs::fstat(&file).map_err(ImageError::io(step))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Ok(None);
            }
            File::from(file)
                .take(MAX_TABLE + 1)
                .read_to_end(&mut content)
                .map_err(ImageError::io(step))?;
            if content.len() as u64 > MAX_TABLE {
                return Ok(None);
            }
        }
        Err(Errno::NOENT) => {
            content.extend_from_slice(match table {
                "passwd" => b"root:x:0:0:root:/root:/bin/sh\n",
                _ => b"root:x:0:\n",
            });
        }
        Err(Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(ImageError::io(step)(errno)),
    }
    let text = String::from_utf8_lossy(&content);
    let number = USER.to_string();
    if text
        .lines()
        .any(|line| line.split(':').nth(2) == Some(&number))
    {
        return Ok(None);
    }
    let taken = |name: &str| {
        text.lines()
            .any(|line| line.split(':').next() == Some(name))
    };
    let name = if taken("user") { "user1000" } else { "user" };
    if !content.is_empty() && !content.ends_with(b"\n") {
        content.push(b'\n');
    }
    content.extend_from_slice(line(name).as_bytes());
    // A new file instead of the old one: that may be a hard link of something else.
    let temporary = ".stacyvm-names";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let written = rustix::fs::openat(etc, temporary, flags, Mode::RUSR | Mode::WUSR)
        .map_err(std::io::Error::from)
        .and_then(|file| {
            let mut file = File::from(file);
            file.write_all(&content)?;
            own(&file, 0)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
            rustix::fs::renameat(etc, temporary, etc, table)?;
            Ok(())
        });
    written.map_err(ImageError::io(step))?;
    Ok(Some(name.to_owned()))
}

fn own(file: impl AsFd, id: u32) -> Result<(), Errno> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    rustix::fs::fchown(file, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))
}
