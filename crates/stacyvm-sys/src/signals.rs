//! Signals as readable events, and the file system identity of a thread.

use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::ptr;

use rustix::io::Result;

/// Blocks `signals` in this thread, and in threads that it starts later, and returns a non-blocking
/// descriptor that becomes readable when one of them is pending (signalfd(2)). Their dispositions are
/// set to the default, because an ignored signal is never delivered.
///
/// # Errors
/// When the kernel has no more descriptors.
pub fn descriptor(signals: &[i32]) -> Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set before anything reads it; every other call gets
    // pointers to live values; the new descriptor is not owned by any other value.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
            libc::signal(signal, libc::SIG_DFL);
        }
        crate::check(libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()).into())?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        let fd = crate::check(libc::signalfd(-1, set.as_ptr(), flags).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Bytes that one read of a `descriptor` returns for each signal.
pub const RECORD: usize = size_of::<libc::signalfd_siginfo>();

/// The number of the signal in a record.
pub fn number(record: &[u8; RECORD]) -> i32 {
    // `ssi_signo` is the first field, see signalfd(2).
    i32::from_ne_bytes([record[0], record[1], record[2], record[3]])
}

/// Sets every signal to its default, except SIGPIPE, which is ignored. Otherwise every program that
/// is started here would ignore the signals that the parent of this process ignored.
pub fn reset_dispositions() {
    for signal in 1..=64 {
        // SAFETY: no handler is installed, only the default and the ignoring disposition; numbers
        // that cannot be changed are refused, which is fine.
        unsafe {
            let wanted = if signal == libc::SIGPIPE {
                libc::SIG_IGN
            } else {
                libc::SIG_DFL
            };
            libc::signal(signal, wanted);
        }
    }
}

/// Sets the file system ids of this thread and of threads that it starts later (setfsuid(2)).
/// Without the capability for it nothing changes; the answer says whether the ids are in force.
///
/// Where the kernel has no such call (gVisor), the effective ids are set, by which it checks files,
/// and the capabilities that this disables are enabled again. Real and saved ids stay, so that the
/// user with these ids can neither signal nor trace this process.
pub fn set_file_ids(uid: u32, gid: u32) -> bool {
    // SAFETY: plain system calls on numbers, for this thread alone, unlike the C library's wrappers;
    // asking for -1 changes nothing and answers the present.
    unsafe {
        if libc::syscall(libc::SYS_setfsgid, -1_i32) < 0 {
            return set_effective_ids(uid, gid);
        }
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        libc::syscall(libc::SYS_setfsgid, -1_i32) == libc::c_long::from(gid)
            && libc::syscall(libc::SYS_setfsuid, -1_i32) == libc::c_long::from(uid)
    }
}

fn set_effective_ids(uid: u32, gid: u32) -> bool {
    let in_force = crate::caps::effective().unwrap_or(crate::caps::Set::empty());
    // SAFETY: plain system calls on numbers; -1 leaves an id as it is.
    let set = unsafe {
        libc::syscall(libc::SYS_setresgid, -1_i32, gid, -1_i32) == 0
            && libc::syscall(libc::SYS_setresuid, -1_i32, uid, -1_i32) == 0
    };
    // Without them the next change fails, and says so.
    let _ = crate::caps::raise(in_force);
    set
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_instead_of_killing() {
        // In a thread of its own: the mask is the thread's.
        let thread = std::thread::spawn(|| {
            let descriptor = descriptor(&[libc::SIGUSR2]).unwrap();
            let mut record = [0; RECORD];
            let nothing = rustix::io::read(&descriptor, &mut record);
            assert_eq!(nothing, Err(rustix::io::Errno::AGAIN));
            // SAFETY: raises a signal in this thread, where it is blocked.
            unsafe { libc::raise(libc::SIGUSR2) };
            assert_eq!(rustix::io::read(&descriptor, &mut record), Ok(RECORD));
            assert_eq!(number(&record), libc::SIGUSR2);
        });
        thread.join().unwrap();
    }

    #[test]
    fn own_ids_are_always_in_force() {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        assert!(set_file_ids(uid, gid));
    }
}
