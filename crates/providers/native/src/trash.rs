//! Deleting the directories of destroyed sandboxes without making a caller wait.
//!
//! A box is renamed into the trash directory, which is one quick call, and a thread of its own with a
//! low priority deletes it. When the thread cannot keep up, callers delete what they bring
//! themselves, so that a busy machine does not fill its disk. What a crash leaves there is deleted at
//! the next start.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, chmodat, fchmod, openat, renameat, unlinkat};
use rustix::io::Errno;

/// The priority of the thread, below all others, see nice(2).
const NICENESS: i32 = 10;

/// How many directories may wait for the thread before callers help it.
const MAX_WAITING: usize = 128;
/// How long a caller helps: a hostile tree may take minutes.
const HELP_TIMEOUT: Duration = Duration::from_secs(1);

/// Levels below which a directory is moved up instead of entered: it bounds open files and stack.
const MAX_DEPTH: usize = 32;

/// The trash directory and its thread.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: PathBuf,
    next: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    handle: Arc<OwnedFd>,
    worker: Mutex<Option<(Sender<OsString>, JoinHandle<()>)>>,
}

impl Trash {
    /// Starts the thread, which first deletes what is in `dir` already.
    pub(crate) fn start(dir: PathBuf) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut next = 0;
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            // Names end in a number; start above the largest so that no name is used twice.
            let name = entry.file_name();
            let number = name.to_str().and_then(|text| text.rsplit('.').next());
            if let Some(number) = number.and_then(|digits| digits.parse::<u64>().ok()) {
                next = next.max(number.saturating_add(1));
            }
            waiting.fetch_add(1, Ordering::Relaxed);
            let _ = sender.send(name);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = Arc::new(rustix::fs::open(&dir, flags, Mode::empty())?);
        let next = Arc::new(AtomicU64::new(next));
        let stopping = Arc::new(AtomicBool::new(false));
        let worker = std::thread::Builder::new()
            .name("native-trash".to_owned())
            .spawn({
                let (handle, next) = (handle.clone(), next.clone());
                let (stopping, waiting) = (stopping.clone(), waiting.clone());
                move || work(&handle, &receiver, &next, &stopping, &waiting)
            })?;
        Ok(Self {
            dir,
            next,
            stopping,
            waiting,
            handle,
            worker: Mutex::new(Some((sender, worker))),
        })
    }

    /// Moves a directory here and has it deleted. Success when there is none. Blocks for
    /// [`HELP_TIMEOUT`] at the most.
    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let target = OsString::from(format!("{}.{number}", name.to_string_lossy()));
        match std::fs::rename(path, self.dir.join(&target)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        if self.waiting.load(Ordering::Relaxed) >= MAX_WAITING && self.help(&target) {
            return Ok(());
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let worker = self.worker.lock();
        if let Some((sender, _)) = worker.as_ref() {
            let _ = sender.send(target);
        }
        Ok(())
    }

    /// Deletes one directory on the caller's own thread; whether nothing is left of it.
    fn help(&self, name: &OsString) -> bool {
        let mut sweep = Sweep {
            trash: &self.handle,
            next: &self.next,
            stopping: &self.stopping,
            deadline: Instant::now().checked_add(HELP_TIMEOUT),
            later: vec![name.clone()],
        };
        let done = sweep.run().is_ok();
        // Parts that lay too deep have been moved up and have names of their own.
        if let Some((sender, _)) = self.worker.lock().as_ref() {
            for part in sweep.later {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let _ = sender.send(part);
            }
        }
        done
    }

    /// Stops the thread at the next file; the rest waits for the next start.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let worker = self.worker.lock().take();
        if let Some((sender, thread)) = worker {
            drop(sender);
            let _ = thread.join();
        }
    }
}

fn work(
    dir: &OwnedFd,
    receiver: &Receiver<OsString>,
    next: &AtomicU64,
    stopping: &AtomicBool,
    waiting: &AtomicUsize,
) {
    // Applies to the calling thread alone, see "C library/kernel differences" in nice(2).
    let _ = rustix::process::nice(NICENESS);
    for name in receiver {
        let mut sweep = Sweep {
            trash: dir,
            next,
            stopping,
            deadline: None,
            later: vec![name],
        };
        let swept = sweep.run();
        waiting.fetch_sub(1, Ordering::Relaxed);
        match swept {
            Ok(()) => {}
            Err(Errno::CANCELED) => return,
            Err(error) => {
                tracing::warn!(%error, "a destroyed sandbox could not be deleted from disk; the next start tries again");
            }
        }
    }
}

/// The deletion of one tree that a hostile program made: no link is followed, directories without
/// permissions are opened up first, and neither depth nor length of paths costs anything, because
/// a directory that lies too deep is moved up into the trash and deleted as a tree of its own.
struct Sweep<'a> {
    trash: &'a OwnedFd,
    next: &'a AtomicU64,
    stopping: &'a AtomicBool,
    /// When the deletion stops; none without a limit.
    deadline: Option<Instant>,
    later: Vec<OsString>,
}

impl Sweep<'_> {
    fn run(&mut self) -> rustix::io::Result<()> {
        while let Some(name) = self.later.pop() {
            let name = CString::new(name.into_vec()).map_err(|_| Errno::INVAL)?;
            self.remove(self.trash, &name, 0)?;
        }
        Ok(())
    }

    fn remove(&mut self, parent: &OwnedFd, name: &CStr, depth: usize) -> rustix::io::Result<()> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        if unlinkat(parent, name, AtFlags::REMOVEDIR).is_ok() {
            return Ok(());
        }
        if depth == MAX_DEPTH {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let up = format!("deep.{number}");
            renameat(parent, name, self.trash, &up)?;
            self.later.push(up.into());
            return Ok(());
        }
        let dir = open_dir(parent, name)?;
        let mut entries = Dir::read_from(&dir)?;
        while let Some(entry) = entries.read() {
            let late = self.deadline.is_some_and(|at| Instant::now() >= at);
            if late || self.stopping.load(Ordering::Relaxed) {
                return Err(Errno::CANCELED);
            }
            let entry = entry?;
            let child = entry.file_name();
            if child != c"." && child != c".." {
                self.remove(&dir, child, depth + 1)?;
            }
        }
        unlinkat(parent, name, AtFlags::REMOVEDIR)
    }
}

/// Opens a directory, giving its owner the right to first when that is missing: an unprivileged
/// server owns what its sandboxes made.
fn open_dir(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            openat(parent, name, flags, Mode::empty())
        }
        Ok(dir) => {
            // Readable is not enough to delete in it.
            if !rustix::process::geteuid().is_root() {
                fchmod(&dir, Mode::RWXU)?;
            }
            Ok(dir)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn empty(dir: &Path) -> bool {
        std::fs::read_dir(dir).unwrap().next().is_none()
    }

    #[test]
    fn a_tree_is_deleted_without_following_links() {
        let home = tempfile::tempdir().unwrap();
        let trash = home.path().join("trash");
        let kept = home.path().join("kept");
        std::fs::create_dir(&trash).unwrap();
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "x").unwrap();

        let leftover = trash.join("sb-00000001.7");
        std::fs::create_dir_all(leftover.join("a/b/c")).unwrap();
        std::os::unix::fs::symlink(&kept, leftover.join("a/link")).unwrap();
        std::fs::set_permissions(leftover.join("a/b"), Permissions::from_mode(0o000)).unwrap();

        let bin = Trash::start(trash.clone()).unwrap();
        let fresh = home.path().join("sb-00000002");
        std::fs::create_dir_all(fresh.join("deep/er")).unwrap();
        bin.take(&fresh).unwrap();
        bin.take(&fresh).unwrap();

        finish(&bin);
        assert!(empty(&trash));
        assert!(!fresh.exists());
        assert!(kept.join("file").exists(), "a link was followed");
    }

    #[test]
    fn a_tree_deeper_than_a_path_may_be_is_deleted() {
        let home = tempfile::tempdir().unwrap();
        let trash = home.path().join("trash");
        std::fs::create_dir(&trash).unwrap();
        let bin = Trash::start(trash.clone()).unwrap();
        let deep = home.path().join("sb-00000003");
        std::fs::create_dir(&deep).unwrap();
        make_deep(&deep);
        bin.take(&deep).unwrap();
        finish(&bin);
        assert!(empty(&trash));
        // One number for the tree, and one each time that it was too deep to be entered at once.
        assert_eq!(bin.next.load(Ordering::Relaxed), 1 + 100 / 32);
    }

    #[test]
    fn a_thread_that_cannot_keep_up_is_helped() {
        let home = tempfile::tempdir().unwrap();
        let trash = home.path().join("trash");
        std::fs::create_dir(&trash).unwrap();
        // A thread that is never given the processor.
        let bin = Trash::start(trash.clone()).unwrap();
        finish(&bin);
        let (sender, receiver) = channel();
        let idle = std::thread::spawn(|| {});
        *bin.worker.lock() = Some((sender, idle));
        for number in 0..MAX_WAITING + 10 {
            let leftover = home.path().join(format!("sb-{number:08x}"));
            std::fs::create_dir_all(leftover.join("a/b")).unwrap();
            bin.take(&leftover).unwrap();
        }
        assert_eq!(std::fs::read_dir(&trash).unwrap().count(), MAX_WAITING);
        assert_eq!(receiver.try_iter().count(), MAX_WAITING);
    }

    /// Lets the thread do all that it has been given.
    fn finish(bin: &Trash) {
        let (sender, thread) = bin.worker.lock().take().unwrap();
        drop(sender);
        thread.join().unwrap();
    }

    /// Longer than the 4,096 bytes that a path may have.
    fn make_deep(root: &Path) {
        use rustix::fs::{mkdirat, open};
        let name = "d".repeat(200);
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = open(root, flags, Mode::empty()).unwrap();
        for _ in 0..100 {
            mkdirat(&dir, &name, Mode::RWXU).unwrap();
            dir = openat(&dir, &name, flags, Mode::empty()).unwrap();
        }
    }
}
