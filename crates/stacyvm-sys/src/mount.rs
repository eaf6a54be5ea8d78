//! Mounts by descriptor: they are made detached, changed, then attached.
//!
//! No function resolves a path of the host twice: a mount is held open from the moment it is chosen.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, mount, move_mount, open_tree, unmount,
};
use rustix::path::Arg;

pub use rustix::mount::MountAttrFlags as Attributes;

/// One parameter of a file system.
#[derive(Clone, Copy, Debug)]
pub enum Parameter<'a> {
    /// A word alone: `ro`.
    Flag(&'a str),
    /// A name with a value: `size=64m`.
    Text(&'a str, &'a str),
    /// A name with an open file.
    File(&'a str, BorrowedFd<'a>),
}

/// Makes a file system as a detached mount.
///
/// # Errors
/// The error of the first step that fails.
pub fn filesystem(
    kind: &str,
    parameters: &[Parameter<'_>],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for parameter in parameters {
        match *parameter {
            Parameter::Flag(name) => fsconfig_set_flag(context.as_fd(), name)?,
            Parameter::Text(name, value) => fsconfig_set_string(context.as_fd(), name, value)?,
            Parameter::File(name, file) => fsconfig_set_fd(context.as_fd(), name, file)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Mounts a file system by mount(2), without devices and setuid bits, and returns a detached copy. All
/// options are one text of at most 4095 bytes. The mount at `place` stays there.
///
/// # Errors
/// The error of the system call.
pub fn at_once(kind: &str, place: &str, options: &str) -> Result<OwnedFd> {
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    mount(kind, place, kind, flags, options.as_c_str())?;
    clone_path(place)
}

/// Makes a detached copy of a mount, alone or with all mounts below it.
///
/// # Errors
/// The error of the system call.
pub fn clone_tree(directory: impl AsFd, path: impl Arg, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(directory, path, flags)
}

/// Makes a detached copy of one host directory by path.
///
/// # Errors
/// The error of the system call.
pub fn clone_path(path: impl Arg) -> Result<OwnedFd> {
    clone_tree(CWD, path, false)
}

/// Attaches a detached mount at `path`. A link at the end of `path` is not followed.
///
/// # Errors
/// The error of the system call.
pub fn attach(mount: impl AsFd, directory: impl AsFd, path: impl Arg) -> Result<()> {
    move_mount(
        mount,
        c"",
        directory,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Detaches a mount and all mounts below it at once; processes that still use it keep it.
///
/// # Errors
/// The error of the system call.
pub fn detach(path: impl Arg) -> Result<()> {
    unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
}

/// Changes attributes of a mount, with `recursive` also of everything below it.
///
/// # Errors
/// The error of the system call.
pub fn set_attributes(
    directory: impl AsFd,
    path: &CStr,
    recursive: bool,
    set: MountAttrFlags,
) -> Result<()> {
    let attributes = RawAttributes {
        set: set.bits().into(),
        ..RawAttributes::default()
    };
    change(directory.as_fd(), path, recursive, &attributes)
}

/// Maps the owners of all files of a detached mount by the user namespace `mapping`.
///
/// # Errors
/// `EINVAL` when the file system cannot do it; otherwise the error of the system call.
pub fn map_ids(mount: impl AsFd, mapping: impl AsFd) -> Result<()> {
    let attributes = RawAttributes {
        set: MountAttrFlags::MOUNT_ATTR_IDMAP.bits().into(),
        user_namespace: u64::from(mapping.as_fd().as_raw_fd().unsigned_abs()),
        ..RawAttributes::default()
    };
    change(mount.as_fd(), c"", false, &attributes)
}

/// Shuts a file system down: unwritten data is never written, and every later use fails. This is for
/// a file system that is about to be deleted.
///
/// # Errors
/// `ENOTTY` when the file system cannot do it; otherwise the error of the system call.
pub fn give_up(directory: impl AsFd) -> Result<()> {
    /// From <linux/fs.h>; ext4 and XFS named it first, as EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN.
    const FS_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587D;
    /// Neither data nor the log is written before.
    const AT_ONCE: u32 = 2;
    let how = AT_ONCE;
    // SAFETY: the kernel reads one u32 from the address given.
    let answer = unsafe {
        libc::ioctl(
            directory.as_fd().as_raw_fd(),
            FS_IOC_SHUTDOWN,
            std::ptr::from_ref(&how),
        )
    };
    crate::check(libc::c_long::from(answer)).map(drop)
}

/// How changes of one mount propagate to its copies in other namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// In neither direction.
    Private,
    /// From the original to its copies only.
    Slave,
}

/// Sets the propagation of every mount of the calling process's namespace.
///
/// # Errors
/// The error of the system call.
pub fn set_propagation(propagation: Propagation) -> Result<()> {
    let attributes = RawAttributes {
        propagation: match propagation {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
        },
        ..RawAttributes::default()
    };
    change(CWD, c"/", true, &attributes)
}

/// mount_setattr(2)'s argument, version 0 (32 bytes).
#[repr(C)]
#[derive(Default)]
struct RawAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

fn change(
    directory: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attributes: &RawAttributes,
) -> Result<()> {
    let mut flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    if recursive {
        flags |= AtFlags::from_bits_retain(libc::AT_RECURSIVE.unsigned_abs());
    }
    // SAFETY: the path is a terminated string and `attributes` a valid mount_attr of the size
    // given; both outlive the call, which writes to neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags.bits(),
            std::ptr::from_ref(attributes),
            size_of::<RawAttributes>(),
        )
    };
    crate::check(result).map(drop)
}
