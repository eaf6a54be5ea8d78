//! Leaving, entering and mapping namespaces of the calling process.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, Result};
use rustix::thread::{UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// One kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mounts.
    Mount,
    /// Network.
    Network,
    /// Cgroups: what `/proc/self/cgroup` is relative to.
    Cgroup,
    /// User ids.
    User,
}

impl Kind {
    fn link(self) -> &'static str {
        match self {
            Self::Mount => "/proc/self/ns/mnt",
            Self::Network => "/proc/self/ns/net",
            Self::Cgroup => "/proc/self/ns/cgroup",
            Self::User => "/proc/self/ns/user",
        }
    }

    fn flag(self) -> UnshareFlags {
        match self {
            Self::Mount => UnshareFlags::NEWNS,
            Self::Network => UnshareFlags::NEWNET,
            Self::Cgroup => UnshareFlags::NEWCGROUP,
            Self::User => UnshareFlags::NEWUSER,
        }
    }
}

/// Moves the calling thread, which must be the only one, into a new namespace.
///
/// # Errors
/// `EDEADLK` when there are other threads, which would stay behind; otherwise the error of the
/// system call.
pub fn leave(kind: Kind) -> Result<()> {
    if crate::proc::thread_count()? != 1 {
        return Err(Errno::DEADLK);
    }
    // SAFETY: the call is marked unsafe for what CLONE_FILES does to descriptors that other
    // threads share; that flag is never given here, and there are no other threads.
    unsafe { unshare_unsafe(kind.flag()) }
}

/// Opens the calling process's namespace, so that it can be entered again.
///
/// # Errors
/// When `/proc` is not there.
pub fn current(kind: Kind) -> Result<OwnedFd> {
    openat(
        CWD,
        kind.link(),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The user namespace of another process.
///
/// # Errors
/// When the process is gone or the caller may not look at it.
pub fn user_namespace_of(pid: i32) -> Result<OwnedFd> {
    openat(
        CWD,
        format!("/proc/{pid}/ns/user"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The network namespace of another process.
///
/// # Errors
/// When the process is gone or the caller may not look at it.
pub fn network_namespace_of(pid: i32) -> Result<OwnedFd> {
    openat(
        CWD,
        format!("/proc/{pid}/ns/net"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Moves the calling thread into a namespace.
///
/// # Errors
/// The error of the system call.
pub fn enter(namespace: impl AsFd) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), None)
}

/// A range of ids and the ids that it is mapped to outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First number inside.
    pub inside: u32,
    /// First number outside.
    pub outside: u32,
    /// Number of ids in the range.
    pub count: u32,
}

impl IdRange {
    fn line(self) -> String {
        format!("{} {} {}\n", self.inside, self.outside, self.count)
    }
}

/// Writes the user and group maps of a new child's user namespace. With `deny_groups` the child
/// gives up changing supplementary groups, which the kernel asks of callers without privilege.
///
/// # Errors
/// The error of the write; `EPERM` when a map was written before, because it can be written only once.
pub fn map_ids(pid: i32, users: IdRange, groups: IdRange, deny_groups: bool) -> Result<()> {
    if deny_groups {
        write_proc(pid, "setgroups", b"deny")?;
    }
    write_proc(pid, "uid_map", users.line().as_bytes())?;
    write_proc(pid, "gid_map", groups.line().as_bytes())
}

fn write_proc(pid: i32, name: &str, content: &[u8]) -> Result<()> {
    let file = openat(
        CWD,
        format!("/proc/{pid}/{name}"),
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if rustix::io::write(&file, content)? == content.len() {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

/// Whether the calling process is in the initial user namespace, in which no id is mapped.
#[must_use]
pub fn has_every_id() -> bool {
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}
