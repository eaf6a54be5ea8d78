//! Paths that the kernel resolves within a directory.
//!
//! The one rule: `EAGAIN` is retried. The kernel answers it for a path with `..` (also one from a
//! link) whenever something was renamed or mounted anywhere on the machine meanwhile, because it
//! then cannot tell that the path stayed inside; see openat2(2). Where there is no `openat2`, `walk`
//! resolves the path in steps.

mod walk;

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, Result};
use rustix::path::Arg;

/// How often a resolution is retried. It cannot fail that often in a row unless renames happen
/// without any pause.
const ATTEMPTS: usize = 1024;

/// Opens `path`, resolved from `base` as `how` says, with close-on-exec. It creates no file.
///
/// # Errors
/// The kernel's own; `BUSY` when other processes renamed or mounted without a pause.
pub fn open(
    base: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    how: ResolveFlags,
) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    for _ in 0..ATTEMPTS {
        match openat2(base.as_fd(), path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS) => {
                return path
                    .into_with_c_str(|path| walk::open_beneath(base.as_fd(), path, flags, how));
            }
            result => return result,
        }
    }
    Err(Errno::BUSY)
}

/// Opens `path` below `base`, never through a link and never out of `base`.
///
/// # Errors
/// `LOOP` when the path goes through a link, `XDEV` when it leaves `base`, and those of [`open`].
pub fn open_beneath(base: impl AsFd, path: impl Arg + Copy, flags: OFlags) -> Result<OwnedFd> {
    open(
        base,
        path,
        flags,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, rename, write};
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::CWD;

    use super::*;

    /// Stops the thread that renames, also when the test fails.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn others_renames_change_no_answer() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path().join("root");
        create_dir_all(root.join("a/b")).expect("directories");
        let directory = OFlags::PATH | OFlags::DIRECTORY;
        let root = rustix::fs::open(&root, directory, Mode::empty()).expect("the root");
        // Not even below the root: any rename on the machine will do.
        let names = ["one", "other"].map(|name| place.path().join(name));
        write(&names[0], "").expect("a file");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    rename(&names[0], &names[1]).expect("there");
                    rename(&names[1], &names[0]).expect("and back");
                }
            });
            let _stop = Stop(&stop);
            // Up and down a few times, so that a rename falls into many of the looks.
            let found = format!("a/{}", "b/../".repeat(16));
            let missing = format!("{found}none");
            for _ in 0..50_000 {
                let found = open(&root, found.as_str(), directory, ResolveFlags::IN_ROOT);
                assert!(found.is_ok(), "{found:?}");
                let missing = open(&root, missing.as_str(), directory, ResolveFlags::BENEATH);
                assert_eq!(missing.err(), Some(Errno::NOENT));
            }
        });
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let base = rustix::fs::openat(CWD, place.path(), OFlags::PATH, Mode::empty());
        let base = base.expect("the directory");
        let up = open(&base, "..", OFlags::PATH, ResolveFlags::BENEATH);
        assert_eq!(up.err(), Some(Errno::XDEV));
    }
}
