//! Writing a planned view to disk, complete or not at all.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FileType, FlockOperation, Gid, Mode, OFlags, Uid, flock};

use super::Progress;
use super::accounts::USER_ID;
use super::plan::{Entry, Plan};

/// Marks a private key in the text form that every tool writes, see RFC 7468.
const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";

/// Builds beside `target` and renames into place; a view that was made there meanwhile stays.
pub(super) fn build(
    plan: &Plan,
    views: &Path,
    target: &Path,
    progress: Progress<'_>,
) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let unfinished = views.join(format!("unfinished-{}-{number}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o755).create(&unfinished)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let held = rustix::fs::open(&unfinished, flags, Mode::empty())?;
    flock(&held, FlockOperation::LockShared)?;

    let written =
        write_all(plan, &unfinished, progress).and_then(|()| std::fs::rename(&unfinished, target));
    match written {
        Ok(()) => Ok(()),
        Err(error) => {
            let _ = std::fs::remove_dir_all(&unfinished);
            if target.is_dir() { Ok(()) } else { Err(error) }
        }
    }
}

fn write_all(plan: &Plan, root: &Path, progress: Progress<'_>) -> io::Result<()> {
    // The modes must not depend on the process's umask.
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o755))?;
    let total = plan.entries.len();
    let privileged = rustix::process::geteuid().is_root();
    for (done, (path, entry)) in plan.entries.iter().enumerate() {
        let path = root.join(path);
        match entry {
            Entry::Directory { mode, owned } => {
                std::fs::create_dir(&path)?;
                std::fs::set_permissions(&path, PermissionsExt::from_mode(*mode))?;
                if *owned && privileged {
                    let (uid, gid) = (Uid::from_raw(USER_ID), Gid::from_raw(USER_ID));
                    rustix::fs::chown(&path, Some(uid), Some(gid))?;
                }
            }
            Entry::Text(content) => write_file(&path, content.as_bytes(), 0o644)?,
            Entry::Link(target) => std::os::unix::fs::symlink(target, &path)?,
            Entry::Copy { source, mode } => copy(source, &path, *mode)?,
            // Overlay's mark for an entry that is not there, which takes no privilege to make.
            Entry::Hidden => {
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)?;
            }
        }
        if done % 64 == 0 {
            progress(done, total);
        }
    }
    progress(total, total);
    Ok(())
}

/// Copies a file that was plain when the plan was made and must be still: a link that has taken
/// its place since is not followed. A file that has gone is left out, and so is a private key.
fn copy(source: &PathBuf, path: &Path, mode: u32) -> io::Result<()> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0))
        .open(source);
    let Ok(mut file) = opened else { return Ok(()) };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o004 == 0 {
        return Ok(());
    }
    let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.read_to_end(&mut content)?;
    if content
        .windows(PRIVATE_KEY.len())
        .any(|window| window == PRIVATE_KEY)
    {
        return Ok(());
    }
    write_file(path, &content, mode)
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.set_permissions(PermissionsExt::from_mode(mode))
}
