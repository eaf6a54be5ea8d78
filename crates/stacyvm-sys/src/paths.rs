//! Opening paths that must not lead out of a directory.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, Result};

/// How often the kernel is asked before it is believed that it cannot say now.
const ATTEMPTS: u32 = 128;

/// Opens `path` from `base` as `how` allows; the descriptor is closed on exec.
///
/// Where a path has `..`, the kernel gives up with `EAGAIN` when anything is renamed or mounted
/// anywhere on the machine meanwhile, because it can then not be sure (openat2(2)). That says
/// nothing about the path, so it is asked again.
///
/// # Errors
/// What the kernel says; `EBUSY` when it gave up every time.
pub fn open_within(
    base: impl AsFd,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
    how: ResolveFlags,
) -> Result<OwnedFd> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let opened = openat2(
            base.as_fd(),
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            how,
        );
        match opened {
            Err(Errno::AGAIN | Errno::INTR) if attempt < ATTEMPTS => {}
            Err(Errno::AGAIN) => return Err(Errno::BUSY),
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn renames_elsewhere_do_not_make_a_path_fail() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (home.path().join("one"), home.path().join("two"));
        std::fs::write(&one, "").unwrap();
        std::fs::create_dir_all(home.path().join("root/a/b")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, home.path().join("root"), flags, Mode::empty()).unwrap();
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    std::fs::rename(&one, &two).unwrap();
                    std::fs::rename(&two, &one).unwrap();
                }
            });
            let opened = (0..20_000).try_for_each(|_| {
                open_within(&root, "a/b/../../../..", flags, ResolveFlags::IN_ROOT).map(drop)
            });
            enough.store(true, Ordering::Relaxed);
            assert_eq!(opened, Ok(()));
        });
    }
}
