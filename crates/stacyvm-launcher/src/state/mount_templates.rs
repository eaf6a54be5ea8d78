//! `/dev` and `/sys` of sandboxes. Each sandbox has file systems of its own, so that neither a lock
//! nor a watch on a file there reaches another sandbox or the host.
//!
//! `/dev` is a small tmpfs with nodes of its own. `/sys` is a read-only overlay over one copy of the
//! harmless parts of the host's: what is in it is shared, its inodes are not.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use stacyvm_sys::mount::{self, Attributes, Parameter};

use super::system_copy::SystemCopy;

/// Device nodes: name, major, minor; see the kernel's devices.txt.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// An empty directory of `/sys`, which is mounted over directories that are hidden.
pub(crate) const EMPTY_DIRECTORY: &str = "sys/firmware";

/// `/sys` is for reading alone.
pub(crate) const SYSTEM_ATTRIBUTES: Attributes = Attributes::MOUNT_ATTR_RDONLY
    .union(Attributes::MOUNT_ATTR_NOSUID)
    .union(Attributes::MOUNT_ATTR_NODEV)
    .union(Attributes::MOUNT_ATTR_NOEXEC);

/// Where a file system is mounted for as long as it is copied from.
const TEMPORARY: &str = "/proc/fs/temporary";

/// Names of the device nodes.
pub(crate) fn device_names() -> impl Iterator<Item = &'static str> {
    NODES.iter().map(|(name, _, _)| *name)
}

/// What sandboxes see of the host's `/sys`, in the form in which overlay takes it: it needs two layers
/// where none is writable. Both are in the launcher's own mount namespace.
const SYSTEM_LAYERS: &str = "/proc/fs/sys:/proc/fs/empty";

/// `/dev` and `/sys` of one sandbox, attached nowhere yet.
#[derive(Debug)]
pub(crate) struct SystemMounts {
    pub(crate) devices: OwnedFd,
    pub(crate) system: OwnedFd,
}

/// What the mounts of sandboxes are made from, in the launcher's own mount namespace.
#[derive(Debug)]
pub(crate) struct MountTemplates(());

impl MountTemplates {
    pub(super) fn open() -> Result<Self, Errno> {
        let attributes = Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOSUID;
        let holder = mount::filesystem("tmpfs", &[Parameter::Text("mode", "755")], attributes)?;
        for place in ["sys", "empty", "temporary"] {
            mkdirat(&holder, place, Mode::from_raw_mode(0o755))?;
        }
        // Over a directory below which no image can be.
        mount::attach(&holder, CWD, c"/proc/fs")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let system = openat(&holder, c"sys", flags, Mode::empty())?;
        populate_sys(&system, &SystemCopy::of_this_machine())?;
        Ok(Self(()))
    }

    /// Mounts a file system in the launcher's own namespace, until the answer is dropped.
    pub(crate) fn mount_temporarily(file_system: &OwnedFd) -> Result<TemporaryMount, Errno> {
        mount::attach(file_system, CWD, TEMPORARY)?;
        Ok(TemporaryMount(()))
    }

    /// Makes a sandbox's `/dev`, without what is mounted in it, and its `/sys`.
    pub(crate) fn make(&self) -> Result<SystemMounts, Errno> {
        let layers = [Parameter::Text("lowerdir", SYSTEM_LAYERS)];
        Ok(SystemMounts {
            devices: make_devices()?,
            system: mount::filesystem("overlay", &layers, SYSTEM_ATTRIBUTES)?,
        })
    }
}

/// A file system that is mounted until this is dropped.
#[derive(Debug)]
pub(crate) struct TemporaryMount(());

impl Drop for TemporaryMount {
    fn drop(&mut self) {
        // Nothing else is ever mounted there, so nothing else can be meant.
        let _ = mount::detach(TEMPORARY);
    }
}

/// An empty file system for `/dev` or `/sys`. It holds little, and what it holds counts as memory.
pub(crate) fn small_tree(attributes: Attributes) -> Result<OwnedFd, Errno> {
    mount::filesystem(
        "tmpfs",
        &[
            Parameter::Text("size", "16m"),
            Parameter::Text("mode", "755"),
        ],
        attributes | Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NOEXEC,
    )
}

/// Makes the links and mount points of `/dev`.
pub(crate) fn populate_dev(tree: impl AsFd) -> Result<(), Errno> {
    for place in ["pts", "shm", "mqueue"] {
        mkdirat(&tree, place, Mode::from_raw_mode(0o755))?;
    }
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ] {
        symlinkat(target, &tree, name)?;
    }
    Ok(())
}

/// Makes `/dev` with its nodes. The process's umask must be empty.
fn make_devices() -> Result<OwnedFd, Errno> {
    let tree = small_tree(Attributes::empty())?;
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        let device = makedev(major, minor);
        mknodat(&tree, name, FileType::CharacterDevice, mode, device)?;
    }
    populate_dev(&tree)?;
    mount::set_attributes(&tree, c"", false, Attributes::MOUNT_ATTR_RDONLY)?;
    Ok(tree)
}

/// Writes what is copied of the host's `/sys` into a tree.
pub(crate) fn populate_sys(tree: impl AsFd, copy: &SystemCopy) -> Result<(), Errno> {
    mkdirat(&tree, "firmware", Mode::from_raw_mode(0o755))?;
    copy.write(&tree)
}
