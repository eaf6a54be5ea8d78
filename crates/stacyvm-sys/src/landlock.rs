//! Landlock domains: one for a whole sandbox, and one for a server that needs no files.
//!
//! In a sandbox the mounts already decide what is visible, so its domain allows everything below `/`
//! and denies what a sandbox never needs: making device nodes, changing the mount topology
//! (which Landlock denies to everyone it confines), and, where the kernel can, signals and abstract
//! sockets to the outside. Scopes go by domain and all processes of a sandbox share one, so they
//! reach each other as before.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, Result};

/// Every right about files of version 1: from executing to making symbolic links.
const FILES_FIRST: u64 = (1 << 13) - 1;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEVICE: u64 = 1 << 15;
const BIND_TCP: u64 = 1 << 0;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
const REFER: u64 = 1 << 13;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;
const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

/// The first version in which moving files between directories can be allowed. Under the one
/// before, every rename across directories fails, so it is not used.
pub const FIRST_USABLE: u32 = 2;

/// landlock_create_ruleset(2)'s argument, as of version 6.
#[repr(C)]
struct Ruleset {
    handled_filesystem: u64,
    handled_network: u64,
    scoped: u64,
}

/// landlock_add_rule(2)'s argument for a path; the C structure is packed.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// The version of the interface that this kernel has, 0 for none.
#[must_use]
pub fn version() -> u32 {
    // SAFETY: with this flag the call takes no structure and touches no memory.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<Ruleset>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(result).unwrap_or(0)
}

/// Confines the calling process and all that it starts. It must have set no_new_privs.
///
/// # Errors
/// `EOPNOTSUPP` when `version` is under [`FIRST_USABLE`]; otherwise the error of the system call.
pub fn confine(version: u32) -> Result<()> {
    if version < FIRST_USABLE {
        return Err(Errno::OPNOTSUPP);
    }
    let ruleset = make(
        version,
        &Ruleset {
            handled_filesystem: MAKE_CHAR | MAKE_BLOCK | REFER,
            handled_network: 0,
            scoped: SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
        },
    )?;
    let root = openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let rule = PathBeneath {
        allowed: REFER,
        parent: root.as_fd().as_raw_fd(),
    };
    // SAFETY: `rule` is a valid structure of the kind named and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            std::ptr::from_ref(&rule),
            0,
        )
    };
    crate::check(result)?;
    restrict(&ruleset)
}

/// Denies the calling process and all that it starts every file, and where the kernel supports it also
/// listening on further TCP ports, signals and abstract sockets. It must have set no_new_privs.
///
/// # Errors
/// `EOPNOTSUPP` without Landlock; otherwise the error of the system call.
pub fn confine_without_files(version: u32) -> Result<()> {
    if version == 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let mut handled_filesystem = FILES_FIRST;
    for (since, right) in [(2, REFER), (3, TRUNCATE), (5, IOCTL_DEVICE)] {
        if version >= since {
            handled_filesystem |= right;
        }
    }
    let ruleset = make(
        version,
        &Ruleset {
            handled_filesystem,
            handled_network: if version >= 4 { BIND_TCP } else { 0 },
            scoped: SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
        },
    )?;
    // Without rules, every handled right is denied.
    restrict(&ruleset)
}

/// Makes a ruleset of the rights that this version knows.
fn make(version: u32, wanted: &Ruleset) -> Result<OwnedFd> {
    // Older kernels know a shorter structure and refuse a longer one that is not zero there.
    let size = match version {
        ..4 => 8,
        4..6 => 16,
        6.. => size_of::<Ruleset>(),
    };
    // SAFETY: `wanted` is a valid structure of at least `size` bytes and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(wanted),
            size,
            0,
        )
    };
    let number = i32::try_from(crate::check(result)?).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn restrict(ruleset: &OwnedFd) -> Result<()> {
    // SAFETY: takes a descriptor and flags, touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    crate::check(result).map(drop)
}
