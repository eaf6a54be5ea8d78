//! Starting a process in namespaces of its own by clone3(2), without exec.
//!
//! This is sound only in a process with one thread: the child continues in a copy of the whole
//! address space, where a lock held by another thread would stay locked for ever. So the one function
//! here counts the threads first, and refuses if there are more.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, Result};

/// The kinds of namespaces that the child gets of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    /// None: a plain copy of the process.
    pub const NONE: Self = Self(0);
    /// User ids.
    pub const USER: Self = Self(libc::CLONE_NEWUSER as u64);
    /// Process ids.
    pub const PID: Self = Self(libc::CLONE_NEWPID as u64);
    /// Mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    /// Network.
    pub const NETWORK: Self = Self(libc::CLONE_NEWNET as u64);
    /// Host name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS as u64);
    /// System V and POSIX message queues, semaphores, shared memory.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// Offsets of the clocks, none unless set. Kernels without these namespaces refuse it.
    pub const TIME: Self = Self(0x80);

    /// Both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The process in which the call returned.
#[derive(Debug)]
pub enum Cloned {
    /// The process that called.
    Parent {
        /// The child's process id, in the caller's pid namespace.
        pid: i32,
        /// A pidfd of the child.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// linux/sched.h; the C library's constant has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// clone3(2)'s argument, version 2 (88 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Copies the calling process into new namespaces and, where given, into a cgroup v2 directory.
///
/// When the child ends, the parent gets SIGCHLD. The C library's record of the thread id is updated in
/// the child, as its own `fork` does.
///
/// # Errors
/// `EDEADLK` when the process has more than one thread; otherwise the error of the system call.
pub fn clone_process(namespaces: Namespaces, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    if crate::proc::thread_count()? != 1 {
        return Err(Errno::DEADLK);
    }
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces.0 | libc::CLONE_PIDFD as u64,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(directory) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(directory.as_raw_fd().unsigned_abs());
    }
    // The address that the C library registered for its thread record. A kernel without this
    // prctl leaves the record stale, which only error-checking pthread mutexes look at.
    if let Ok(Some(address)) = rustix::thread::get_clear_child_tid_address() {
        args.flags |= (libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID) as u64;
        args.child_tid = address.as_ptr() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the size given and outlives the call, as does
    // `pidfd`, to which the kernel writes. `child_tid` is the address that the C library gave the
    // kernel for the very same purpose. Neither CLONE_VM nor CLONE_VFORK nor a stack is given, so
    // the child runs on a private copy of this address space, as after fork(2). There is no other
    // thread (checked above, and only this one could start one), so no lock or half-changed data
    // is copied.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_ref(&args),
            size_of::<CloneArgs>(),
        )
    };
    match result {
        0 => Ok(Cloned::Child),
        pid if pid > 0 => Ok(Cloned::Parent {
            pid: i32::try_from(pid).expect("process ids fit in 32 bits"),
            // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(crate::last_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_in_a_process_with_threads() {
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || receiver.recv());
            assert_eq!(
                clone_process(Namespaces::NONE, None).map(|_| ()),
                Err(Errno::DEADLK)
            );
            drop(sender);
        });
    }
}
