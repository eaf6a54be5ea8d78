//! System call filters for a sandbox and for a network server: each is an allow-list, compiled into
//! one classic BPF program.
//!
//! A call that is not on the list returns `EPERM`, and one newer than the list `ENOSYS`, so that
//! programs fall back to older calls. The program checks the architecture first; otherwise x32 and
//! 32-bit calls of an x86 kernel would bypass it with their own numbers.

mod list;
mod network;
mod program;

use std::sync::OnceLock;

use rustix::io::Result;

pub use program::Instruction;

/// The filter of a sandbox, built once: a few hundred instructions.
#[must_use]
pub fn filter() -> &'static [Instruction] {
    static FILTER: OnceLock<Vec<Instruction>> = OnceLock::new();
    FILTER.get_or_init(|| program::assemble(&list::rules(), list::NEWEST_KNOWN))
}

/// The filter of a network server that has its listening sockets and one thread.
#[must_use]
pub fn network_filter() -> Vec<Instruction> {
    program::assemble(&network::rules(), list::NEWEST_KNOWN)
}

/// Puts the calling thread, which must be the only one, and all that it starts under the filter
/// for ever. It must have set no_new_privs or hold CAP_SYS_ADMIN.
///
/// # Errors
/// `EINVAL` when the kernel has no filters; `EACCES` without either of the above.
pub fn confine(filter: &[Instruction]) -> Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| rustix::io::Errno::INVAL)?,
        filter: filter.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `program` points at `len` instructions, whose layout is that of the C structure, and
    // both outlive the call; the kernel copies them and writes to neither.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            std::ptr::from_ref(&program),
            0,
            0,
        )
    };
    crate::check(result.into()).map(drop)
}

/// Whether this kernel supports filters; none is set to find out.
#[must_use]
pub fn available() -> bool {
    const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the call reads one 32-bit action, which outlives it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_GET_ACTION_AVAIL,
            0,
            std::ptr::from_ref(&action),
        )
    };
    result == 0
}

#[cfg(test)]
mod tests;
