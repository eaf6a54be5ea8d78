//! Starting a program from a process that must not be delayed: no copy of page tables, no thread.
//!
//! The child borrows the parent's memory (`CLONE_VM | CLONE_VFORK`, see clone(2)) on a stack of its
//! own until it has become the new program or failed, and the calling thread waits that long.
//! Everything the child reads is prepared before; in between it makes system calls and nothing
//! else: no allocation, no lock, no Rust code that could panic.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;

/// Bytes of the child's stack; only touched pages cost memory.
const STACK: usize = 64 * 1024;

/// The directory that a program starts in.
#[derive(Clone, Copy, Debug)]
pub enum Directory<'a> {
    /// A path, which is entered with the rights of the program's own user.
    Path(&'a CStr),
    /// An open directory.
    Open(BorrowedFd<'a>),
}

/// The user and groups that a program runs as.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups; none leaves those of the caller.
    pub groups: Option<&'a [u32]>,
}

/// A program to start.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Paths to try, in this order; what is not there is skipped.
    pub candidates: &'a [CString],
    /// Arguments, the first is the program's name.
    pub arguments: &'a [CString],
    /// `NAME=value` each.
    pub environment: &'a [CString],
    /// The directory that it starts in.
    pub directory: Directory<'a>,
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Whether standard input is a terminal that becomes its controlling terminal.
    pub terminal: bool,
    /// The user and groups that it runs as; none means those of the caller.
    pub identity: Option<Identity<'a>>,
    /// A number written into the soft and hard `RLIMIT_LOCKS`, which the kernel has not used
    /// since 2.4.25 (getrlimit(2)) but copies to every descendant: a mark to find them by.
    pub mark: Option<u64>,
    /// Its `oom_score_adj`, written if the kernel lets us.
    pub oom_score: Option<&'a CStr>,
    /// Its effective capabilities, out of those that the caller has. Only user 0 keeps them when the
    /// program starts.
    pub capabilities: crate::caps::Set,
}

/// The step at which a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Making the process.
    Clone,
    /// Session, terminal or standard streams.
    Streams,
    /// Entering the directory.
    Directory,
    /// Taking the identity or dropping capabilities.
    Identity,
    /// Running the program; the error is that of the most telling candidate.
    Execute,
}

/// Why a program did not start. Nothing of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("start a program: {step:?}: {errno}")]
pub struct SpawnError {
    /// The step that failed.
    pub step: Step,
    /// The kernel's error number.
    pub errno: Errno,
}

/// Starts programs, and owns the stack that they start on.
#[derive(Debug)]
pub struct Spawner {
    stack: Box<[u128]>,
}

impl Default for Spawner {
    fn default() -> Self {
        Self {
            // Zeroed memory of this size comes untouched from the kernel.
            stack: vec![0; STACK / size_of::<u128>()].into_boxed_slice(),
        }
    }
}

/// The data that the child reads, and the one field that it writes.
struct Plan {
    candidates: *const *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    directory_path: *const c_char,
    directory: c_int,
    stdio: [c_int; 3],
    terminal: bool,
    identity: bool,
    uid: u32,
    gid: u32,
    groups: *const u32,
    group_count: usize,
    set_groups: bool,
    mark: u64,
    oom_score: *const c_char,
    oom_score_length: usize,
    capabilities: u64,
    failed_step: AtomicI32,
    failed_errno: AtomicI32,
}

impl Spawner {
    /// Starts a program as the leader of a session of its own, with every signal at its default
    /// and unblocked, no capability but those named, and only the three standard streams open. Returns
    /// its process id when it runs. The caller reaps it.
    ///
    /// # Errors
    /// Says at which step it failed.
    pub fn spawn(&mut self, program: &Program<'_>) -> Result<i32, SpawnError> {
        let candidates = pointers(program.candidates);
        let arguments = pointers(program.arguments);
        let environment = pointers(program.environment);
        let (directory_path, directory) = match program.directory {
            Directory::Path(path) => (path.as_ptr(), -1),
            Directory::Open(fd) => (ptr::null(), fd.as_raw_fd()),
        };
        let groups = program.identity.and_then(|identity| identity.groups);
        let plan = Plan {
            candidates: candidates.as_ptr(),
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            directory_path,
            directory,
            stdio: program.stdio.map(|fd| fd.as_raw_fd()),
            terminal: program.terminal,
            identity: program.identity.is_some(),
            uid: program.identity.map_or(0, |identity| identity.uid),
            gid: program.identity.map_or(0, |identity| identity.gid),
            groups: groups.map_or(ptr::null(), <[u32]>::as_ptr),
            group_count: groups.map_or(0, <[u32]>::len),
            set_groups: groups.is_some(),
            mark: program.mark.unwrap_or(0),
            oom_score: program.oom_score.map_or(ptr::null(), CStr::as_ptr),
            oom_score_length: program.oom_score.map_or(0, CStr::count_bytes),
            capabilities: program.capabilities.bits(),
            failed_step: AtomicI32::new(0),
            failed_errno: AtomicI32::new(0),
        };
        let top = self.stack.as_mut_ptr_range().end;
        // SAFETY: `top` is the aligned end of memory that this spawner owns and that nothing else
        // uses: `&mut self` is held until `clone` returns, which, with CLONE_VFORK, is after the
        // child has left this memory by execve or exit. `plan` and all it points to live in this
        // frame, which the same rule keeps alive. The child runs `child`, which keeps the rules of
        // the module's first lines.
        let pid = unsafe {
            libc::clone(
                child,
                top.cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                ptr::from_ref(&plan).cast_mut().cast(),
            )
        };
        if pid < 0 {
            return Err(SpawnError {
                step: Step::Clone,
                errno: crate::last_error(),
            });
        }
        let step = match plan.failed_step.load(Ordering::Acquire) {
            0 => return Ok(pid),
            1 => Step::Streams,
            2 => Step::Directory,
            3 => Step::Identity,
            _ => Step::Execute,
        };
        let errno = Errno::from_raw_os_error(plan.failed_errno.load(Ordering::Acquire));
        reap(pid);
        Err(SpawnError { step, errno })
    }
}

/// Copies a descriptor that this process inherited, and marks both close-on-exec so that no program
/// started from here gets them. The original stays open, so that its number is not reused.
///
/// # Errors
/// When nothing is open under that number.
pub fn inherited(number: u32) -> rustix::io::Result<OwnedFd> {
    let number = i32::try_from(number).map_err(|_| Errno::BADF)?;
    // SAFETY: fcntl on a number that may or may not be open; the copy is owned by nobody else.
    unsafe {
        let copy = crate::check(libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3).into())?;
        libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
        Ok(OwnedFd::from_raw_fd(copy as i32))
    }
}

/// A null-terminated table of pointers to `strings`.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let mut table = Vec::with_capacity(strings.len() + 1);
    table.extend(strings.iter().map(|string| string.as_ptr()));
    table.push(ptr::null());
    table
}

/// Reaps a child that has failed to start, so that the caller's waits never see it.
fn reap(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        while let Err(Errno::INTR) =
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        {}
    }
}

/// Everything that the child does. It returns only when it has failed, and returning ends the child.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `argument` is the `Plan` of `spawn`, which lives until this process is gone.
    let plan = unsafe { &*argument.cast::<Plan>() };
    // SAFETY: the plan's pointers are what `spawn` made them.
    let (step, errno) = unsafe { become_program(plan) };
    plan.failed_errno.store(errno, Ordering::Release);
    plan.failed_step.store(step, Ordering::Release);
    127
}

/// The error number of the last failed call. `errno` is shared with the waiting parent, which reads its
/// own only after its own calls.
fn number() -> c_int {
    // SAFETY: the address is valid for this thread for as long as it lives.
    unsafe { *libc::__errno_location() }
}

/// Does every step. It does not return on success, and returns the failed step with its error number
/// otherwise.
///
/// # Safety
/// Every pointer of `plan` must be valid: tables null-terminated, strings nul-terminated.
unsafe fn become_program(plan: &Plan) -> (c_int, c_int) {
    // SAFETY: plain system calls on numbers and on memory that the caller vouches for; the C
    // library's wrappers used here are thin and async-signal-safe (signal-safety(7)), and what it
    // would do to all threads (the set*id family) is called as a raw system call instead.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGPIPE, &raw const default, ptr::null_mut());
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());

        if libc::setsid() < 0 {
            return (1, number());
        }
        for (target, &source) in plan.stdio.iter().enumerate() {
            if libc::dup2(source, target as c_int) < 0 {
                return (1, number());
            }
        }
        if plan.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
            return (1, number());
        }
        if plan.mark != 0 {
            let mark = libc::rlimit64 {
                rlim_cur: plan.mark,
                rlim_max: plan.mark,
            };
            // It fails where the limit is lower already; then sessions and parents have to do.
            libc::setrlimit64(libc::RLIMIT_LOCKS, &raw const mark);
        }
        if !plan.oom_score.is_null() {
            // The file belongs to the effective user, and it is opened by the file system user.
            let before = libc::syscall(libc::SYS_setfsuid, libc::geteuid());
            let file = libc::open(
                c"/proc/self/oom_score_adj".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            );
            if file >= 0 {
                libc::write(file, plan.oom_score.cast(), plan.oom_score_length);
                libc::close(file);
            }
            libc::syscall(libc::SYS_setfsuid, before);
        }
        if plan.directory >= 0 && libc::fchdir(plan.directory) < 0 {
            return (2, number());
        }
        if plan.identity {
            if plan.set_groups
                && libc::syscall(libc::SYS_setgroups, plan.group_count, plan.groups) < 0
            {
                return (3, number());
            }
            if libc::syscall(libc::SYS_setresgid, plan.gid, plan.gid, plan.gid) < 0
                || libc::syscall(libc::SYS_setresuid, plan.uid, plan.uid, plan.uid) < 0
            {
                return (3, number());
            }
        }
        // version 3 of the header, this thread; two words each of effective, permitted, inheritable
        let header: [u32; 2] = [0x2008_0522, 0];
        let (low, high) = (plan.capabilities as u32, (plan.capabilities >> 32) as u32);
        let sets: [u32; 6] = [low, low, 0, high, high, 0];
        if libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) < 0 {
            return (3, number());
        }
        if !plan.directory_path.is_null() && libc::chdir(plan.directory_path) < 0 {
            return (2, number());
        }
        // All else is opened close-on-exec; this is for what a library may have left open.
        libc::syscall(
            libc::SYS_close_range,
            3 as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        let mut telling = libc::ENOENT;
        let mut candidate = plan.candidates;
        while !(*candidate).is_null() {
            libc::execve(*candidate, plan.arguments, plan.environment);
            match number() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => telling = libc::EACCES,
                other => return (4, other),
            }
            candidate = candidate.add(1);
        }
        (4, telling)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::process::{Pid, WaitOptions, waitpid};
    use std::os::fd::AsFd as _;

    fn run(candidates: &[CString], script: &str, mark: Option<u64>) -> Result<i32, SpawnError> {
        let null = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap();
        let arguments = [
            c"sh".to_owned(),
            c"-c".to_owned(),
            CString::new(script).unwrap(),
        ];
        Spawner::default().spawn(&Program {
            candidates,
            arguments: &arguments,
            environment: &[c"PATH=/usr/bin:/bin".to_owned()],
            directory: Directory::Path(c"/"),
            stdio: [null.as_fd(); 3],
            terminal: false,
            identity: None,
            mark,
            oom_score: Some(c"500"),
            capabilities: crate::caps::Set::empty(),
        })
    }

    fn exit_code(pid: i32) -> Option<i32> {
        let (_, status) = waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap()?;
        status.exit_status()
    }

    #[test]
    fn a_program_runs_marked_and_alone() {
        let script = "test \"$(ulimit -x)\" = 1 && test -z \"$(ls /proc/self/fd | grep -v '^[0-3]$')\" \
             && test $(cut -d' ' -f6 /proc/self/stat) = $$ && test $(cat /proc/self/oom_score_adj) = 500 && exit 42";
        // `ulimit -x` of dash does not exist everywhere: the mark is read from /proc instead.
        let script = script.replace(
            "\"$(ulimit -x)\" = 1",
            "\"$(sed -n 's/^Max file locks *\\([0-9]*\\) .*/\\1/p' /proc/self/limits)\" = 1099511627777",
        );
        let pid = run(&[c"/bin/sh".to_owned()], &script, Some((1 << 40) + 1)).unwrap();
        assert_eq!(exit_code(pid), Some(42));
    }

    #[test]
    fn the_first_candidate_that_is_there_wins_and_failures_are_told() {
        let missing = c"/nonexistent/sh".to_owned();
        let pid = run(&[missing.clone(), c"/bin/sh".to_owned()], "exit 3", None).unwrap();
        assert_eq!(exit_code(pid), Some(3));
        let error = run(&[missing], "", None).unwrap_err();
        assert_eq!((error.step, error.errno), (Step::Execute, Errno::NOENT));
        let error = run(&[c"/etc/passwd".to_owned()], "", None).unwrap_err();
        assert_eq!((error.step, error.errno), (Step::Execute, Errno::ACCESS));
    }
}
