//! Kernel interfaces that no library offers.
//!
//! The only crate with `unsafe` code; every block says why it is sound. Errors are the kernel's own
//! numbers: what step they belong to is the caller's to say. Nothing here decides policy, except
//! for the seccomp lists and the Landlock domains, which are the same for every sandbox and for
//! every server outside of them.
#![allow(unsafe_code)]

pub mod caps;
pub mod cgroup;
pub mod clone;
pub mod fds;
pub mod landlock;
pub mod loop_device;
pub mod mount;
pub mod namespaces;
pub mod netlink;
pub mod netns;
pub mod pidfd;
pub mod proc;
pub mod process;
pub mod project_quota;
pub mod redirect;
pub mod resolve;
pub mod rlimit;
pub mod seccomp;
pub mod signals;
pub mod spawn;

use rustix::io::{Errno, Result};

/// The error of the C library call that has just failed.
pub(crate) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A C library call's answer: what it returned, or why it failed.
pub(crate) fn check(result: libc::c_long) -> Result<libc::c_long> {
    if result < 0 {
        Err(last_error())
    } else {
        Ok(result)
    }
}
