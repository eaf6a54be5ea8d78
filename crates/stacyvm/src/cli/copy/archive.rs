//! Directories as tar streams: packing what is here, unpacking what a sandbox sends.
//!
//! The sandbox is hostile: its archive may name paths outside the destination, or put a link in
//! the way and write through it. So every entry is opened below the destination's descriptor with
//! links refused, and links are made last, when nothing is written any more.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat};
use rustix::io::Errno;
use stacyvm_client::ByteStream;
use tokio::sync::mpsc;

use crate::progress::Progress;

/// How many chunks wait between the two sides.
const QUEUED_CHUNKS: usize = 8;
/// How large a chunk is, bytes.
const CHUNK_SIZE: usize = 64 * 1024;

/// A directory's content as a tar stream; links stay links.
pub(super) fn pack(directory: PathBuf) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
    tokio::task::spawn_blocking(move || {
        let writer = ChannelWriter {
            sender: sender.clone(),
        };
        let mut builder = tar::Builder::new(io::BufWriter::with_capacity(CHUNK_SIZE, writer));
        builder.follow_symlinks(false);
        let packed = builder
            .append_dir_all(".", &directory)
            .and_then(|()| builder.into_inner())
            .and_then(|mut buffer| buffer.flush());
        if let Err(error) = packed {
            // The receiver is gone when the upload failed first, and then says why.
            let _ = sender.blocking_send(Err(error));
        }
    });
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    })
}

struct ChannelWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sender
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Unpacks what a sandbox sends into `target`, which is made.
pub(super) async fn unpack(
    mut download: ByteStream,
    target: PathBuf,
    progress: Progress,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUED_CHUNKS);
    let unpacking = tokio::task::spawn_blocking(move || {
        let reader = ChannelReader {
            receiver,
            piece: Bytes::new(),
        };
        unpack_archive(reader, &target)
    });
    let mut failed = None;
    loop {
        match download.next().await {
            Some(Ok(piece)) => {
                progress.advance(piece.len() as u64);
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
            None => break,
            Some(Err(error)) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let unpacked = unpacking.await.context("the unpacking failed")?;
    match failed {
        Some(error) => Err(error.into()),
        None => unpacked,
    }
}

struct ChannelReader {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

fn unpack_archive(source: impl Read, target: &Path) -> Result<()> {
    std::fs::create_dir_all(target).context("cannot make the destination")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, target, flags, Mode::empty()).context("cannot open the destination")?;
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(source);
    for entry in archive.entries().context("cannot read the archive")? {
        let mut entry = entry.context("cannot read the archive")?;
        let name = entry.path().context("an entry has no name")?.into_owned();
        let Some(path) = inside(&name) else {
            bail!(
                "the archive has {:?}, which leads out of the destination",
                name
            );
        };
        if path.as_os_str().is_empty() {
            continue;
        }
        let mode = Mode::from_raw_mode(entry.header().mode().unwrap_or(0o644) & 0o777);
        match entry.header().entry_type() {
            tar::EntryType::Directory => make_directories(&root, &path)?,
            tar::EntryType::Symlink => {
                let goal = entry
                    .link_name()
                    .context("a link has no target")?
                    .context("a link has no target")?
                    .into_owned();
                links.push((path, goal));
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                if let Some(parent) = path.parent() {
                    make_directories(&root, parent)?;
                }
                let mut file = std::fs::File::from(create(&root, &path, mode)?);
                io::copy(&mut entry, &mut file)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            // Devices, sockets and hard links mean nothing outside the sandbox.
            _ => eprintln!("warning: {} is no file and is left out", path.display()),
        }
    }
    for (path, goal) in links {
        let parent = match path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            Some(parent) => {
                make_directories(&root, parent)?;
                below(&root, parent, flags, Mode::empty())?
            }
            None => root.try_clone().context("cannot open the destination")?,
        };
        let name = path.file_name().context("a link has no name")?;
        match symlinkat(&goal, &parent, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot link {}", path.display()));
            }
        }
    }
    Ok(())
}

/// The path without `.` parts; none when it is absolute or goes up.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(clean)
}

/// Opens below `root`; no link is followed, wherever it stands.
fn below(root: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve)
        .with_context(|| format!("cannot open {} in the destination", path.display()))
}

fn create(root: &OwnedFd, path: &Path, mode: Mode) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
    below(root, path, flags, mode)
}

fn make_directories(root: &OwnedFd, path: &Path) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut parent = root.try_clone().context("cannot open the destination")?;
    for name in path.components() {
        let name: &Path = name.as_ref();
        match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", path.display()));
            }
        }
        parent = below(&parent, name, flags, Mode::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            // `set_path` would refuse what a hostile archive holds.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            let data = if *kind == tar::EntryType::Symlink {
                header.set_link_name(content).unwrap();
                ""
            } else {
                content
            };
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn files_directories_and_links_arrive() {
        use tar::EntryType::{Directory, Regular, Symlink};
        let home = tempfile::tempdir().unwrap();
        let bytes = archive(&[
            ("./", Directory, ""),
            ("./a/", Directory, ""),
            ("./a/b.txt", Regular, "hello"),
            ("./link", Symlink, "a/b.txt"),
        ]);
        let target = home.path().join("new");
        unpack_archive(bytes.as_slice(), &target).unwrap();
        assert_eq!(
            std::fs::read_to_string(target.join("link")).unwrap(),
            "hello"
        );
    }

    #[test]
    fn nothing_lands_outside_the_destination() {
        use tar::EntryType::{Regular, Symlink};
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let there = outside.to_str().unwrap();
        let through = [("d", Symlink, there), ("d/f", Regular, "x")];
        let up = [("../outside/f", Regular, "x")];
        let absolute = format!("{there}/f");
        let absolute = [(absolute.as_str(), Regular, "x")];
        for (number, entries) in [&through[..], &up[..], &absolute[..]]
            .into_iter()
            .enumerate()
        {
            let target = home.path().join(format!("target{number}"));
            // Whether it is refused or lands inside as a plain file, it must not land outside.
            let _ = unpack_archive(archive(entries).as_slice(), &target);
            assert!(!outside.join("f").exists(), "{entries:?}");
        }
        // A link that was in the destination before is not followed either.
        let target = home.path().join("target-old");
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&outside, target.join("d")).unwrap();
        unpack_archive(archive(&[("d/f", Regular, "x")]).as_slice(), &target).unwrap_err();
        assert!(!outside.join("f").exists());
    }
}
