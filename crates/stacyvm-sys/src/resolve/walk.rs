//! Resolution in steps, for kernels without `openat2` (gVisor, Linux before 5.6).
//!
//! The rule: a name is only ever looked up in a directory that is held open, never through a link,
//! and `..` returns to the directory that was held before, even if it has been moved meanwhile. So
//! nothing that is swapped in between leads out of the base directory.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, open, openat,
    readlinkat,
};
use rustix::io::{Errno, Result};

/// How many links are followed; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Opens `path` from `base` on. `how` must say `IN_ROOT` or `BENEATH`.
pub(super) fn open_beneath(
    base: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    how: ResolveFlags,
) -> Result<OwnedFd> {
    if !how.intersects(ResolveFlags::IN_ROOT | ResolveFlags::BENEATH) {
        return Err(Errno::INVAL);
    }
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let mut walk = Walk {
        base,
        how,
        below: Vec::new(),
        ahead: VecDeque::new(),
        links: 0,
    };
    walk.prepend(path.to_bytes())?;
    while let Some(name) = walk.ahead.pop_front() {
        match name.to_bytes() {
            b"." => {}
            b".." => walk.up()?,
            _ => {
                if let Some(file) = walk.enter(&name, flags)? {
                    return finish(file, flags);
                }
            }
        }
    }
    // The walk ended at a directory that is already open.
    let flags = (flags - OFlags::NOFOLLOW) | OFlags::DIRECTORY;
    openat(walk.here(), c".", flags, Mode::empty())
}

struct Walk<'a> {
    base: BorrowedFd<'a>,
    how: ResolveFlags,
    /// The directories between the base and here.
    below: Vec<OwnedFd>,
    /// Names that are still to be resolved.
    ahead: VecDeque<CString>,
    links: usize,
}

impl Walk<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        self.below.last().map_or(self.base, OwnedFd::as_fd)
    }

    /// Puts a path before the names that are still to be resolved.
    fn prepend(&mut self, path: &[u8]) -> Result<()> {
        if path.starts_with(b"/") {
            if self.how.contains(ResolveFlags::BENEATH) {
                return Err(Errno::XDEV);
            }
            self.below.clear();
        }
        // A path that ends with a slash is a directory, as if it ended with a dot.
        if path.ends_with(b"/") {
            self.ahead.push_front(c".".to_owned());
        }
        for name in path.split(|byte| *byte == b'/').rev() {
            if !name.is_empty() {
                let name = CString::new(name).map_err(|_| Errno::INVAL)?;
                self.ahead.push_front(name);
            }
        }
        Ok(())
    }

    fn up(&mut self) -> Result<()> {
        if self.below.pop().is_none() && self.how.contains(ResolveFlags::BENEATH) {
            return Err(Errno::XDEV);
        }
        Ok(())
    }

    /// Resolves one more name. Returns the last name if it is not a directory on the way.
    fn enter(&mut self, name: &CStr, flags: OFlags) -> Result<Option<OwnedFd>> {
        let path_only = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(self.here(), name, path_only, Mode::empty())?;
        let last = self.ahead.is_empty();
        match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::Symlink if last && flags.contains(OFlags::NOFOLLOW) => {
                if flags.contains(OFlags::DIRECTORY) {
                    return Err(Errno::NOTDIR);
                }
                let wanted = flags.contains(OFlags::PATH);
                wanted.then_some(Some(file)).ok_or(Errno::LOOP)
            }
            FileType::Symlink => {
                self.links += 1;
                if self.how.contains(ResolveFlags::NO_SYMLINKS) || self.links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = readlinkat(&file, c"", Vec::new())?;
                let no_magic = self.how.contains(ResolveFlags::NO_MAGICLINKS);
                if no_magic && is_magic(&file, target.to_bytes()) {
                    return Err(Errno::LOOP);
                }
                self.prepend(target.to_bytes())?;
                Ok(None)
            }
            FileType::Directory => {
                self.below.push(file);
                Ok(None)
            }
            _ if last && !flags.contains(OFlags::DIRECTORY) => Ok(Some(file)),
            _ => Err(Errno::NOTDIR),
        }
    }
}

/// Whether a link is a magic link of the kernel to a file that a process has open, whose text is only
/// a description. The ordinary links of `/proc` are all relative.
fn is_magic(link: &OwnedFd, target: &[u8]) -> bool {
    let in_proc = fstatfs(link).is_ok_and(|found| found.f_type == PROC_SUPER_MAGIC);
    in_proc && (target.starts_with(b"/") || target.contains(&b':'))
}

/// Opens what was found with the requested flags.
fn finish(file: OwnedFd, flags: OFlags) -> Result<OwnedFd> {
    if flags.contains(OFlags::PATH) {
        return Ok(file);
    }
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(own, flags - OFlags::NOFOLLOW, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs::{File, create_dir_all, write};
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    /// The inode number of the opened file, or the error.
    fn found(result: Result<OwnedFd>) -> Result<u64> {
        result.map(|file| File::from(file).metadata().expect("it is open").ino())
    }

    #[test]
    fn it_answers_as_the_kernel_does() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path().join("root");
        create_dir_all(root.join("a/b/c")).expect("directories");
        write(root.join("a/file"), "content").expect("a file");
        write(place.path().join("outside"), "").expect("a file outside");
        for (link, target) in [
            ("absolute", "/a/b"),
            ("relative", "a/b/../file"),
            ("a/b/up", "../../a"),
            ("a/b/far", "../../../../../a/file"),
            ("out", "../outside"),
            ("loop", "loop"),
            ("dangling", "a/none"),
            ("slash", "a/b/"),
            ("wrong", "a/file/"),
            ("chain", "absolute/up/b"),
            ("self", "."),
        ] {
            symlink(target, root.join(link)).expect("a link");
        }
        let base = open(&root, OFlags::PATH, Mode::empty()).expect("the root");
        let paths = [
            ".",
            "..",
            "/",
            "a",
            "a/",
            "a/b/..",
            "a/b/../..",
            "a/b/../../..",
            "a/file",
            "a/file/",
            "a/file/x",
            "a/file/.",
            "a/none",
            "none/x",
            "absolute",
            "absolute/",
            "absolute/c",
            "relative",
            "a/b/up",
            "a/b/up/file",
            "a/b/far",
            "out",
            "loop",
            "loop/x",
            "dangling",
            "slash",
            "slash/c",
            "wrong",
            "chain",
            "chain/c/../up",
            "self/self/a",
            "/a/b",
            "//a//./b/",
            "../../a/file",
            "a/../../a",
            "",
        ];
        let flags = [
            OFlags::PATH,
            OFlags::RDONLY,
            OFlags::PATH | OFlags::NOFOLLOW,
            OFlags::RDONLY | OFlags::NOFOLLOW,
            OFlags::PATH | OFlags::DIRECTORY,
            OFlags::RDONLY | OFlags::DIRECTORY,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW,
        ];
        let ways = [
            ResolveFlags::IN_ROOT,
            ResolveFlags::BENEATH,
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        ];
        let mut differ = Vec::new();
        for path in paths {
            let path = CString::new(path).expect("no zero byte");
            for flags in flags {
                for how in ways {
                    let flags = flags | OFlags::CLOEXEC;
                    let kernel = found(super::super::open(&base, path.as_c_str(), flags, how));
                    let walked = found(open_beneath(base.as_fd(), &path, flags, how));
                    if kernel != walked {
                        differ.push(format!("{path:?} {flags:?} {how:?}: {kernel:?} {walked:?}"));
                    }
                }
            }
        }
        assert!(differ.is_empty(), "{differ:#?}");
    }

    #[test]
    fn the_kernels_own_links_are_told_from_ordinary_ones() {
        let base = open("/proc", OFlags::PATH, Mode::empty()).expect("/proc");
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let in_root = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for path in [
            c"self/root",
            c"self/cwd",
            c"self/fd/0",
            c"self/ns/mnt",
            c"self/exe",
        ] {
            for how in [how, in_root] {
                let walked = open_beneath(base.as_fd(), path, OFlags::PATH, how);
                assert_eq!(walked.err(), Some(Errno::LOOP), "{path:?}");
            }
        }
        for path in [c"self/status", c"mounts", c"net/dev", c"thread-self/stat"] {
            let walked = found(open_beneath(base.as_fd(), path, OFlags::RDONLY, how));
            let kernel = found(super::super::open(&base, path, OFlags::RDONLY, how));
            assert_eq!(walked, kernel, "{path:?}");
        }
    }
}
