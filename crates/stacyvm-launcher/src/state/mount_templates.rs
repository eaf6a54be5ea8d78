//! `/dev` and `/sys` of every sandbox: made once, copied as one mount for each.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, chmodat, makedev, mkdirat, mknodat, openat, symlinkat,
};
use rustix::io::Errno;
use stacyvm_sys::mount::{self, Attributes, Parameter};

/// Device nodes: name, major, minor; see the kernel's devices.txt.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Harmless parts of the host's sysfs: what programs ask to size their thread pools and buffers.
const SYSFS_PARTS: [&str; 3] = [
    "devices/system/cpu",
    "devices/system/node",
    "kernel/mm/transparent_hugepage",
];

/// An empty directory of `/sys`, which is mounted over directories that are hidden.
pub(crate) const EMPTY_DIRECTORY: &str = "sys/firmware";

/// Where a file system is mounted for as long as it is copied from.
const TEMPORARY: &str = "/proc/fs/temporary";

/// Names of the device nodes.
pub(crate) fn device_names() -> impl Iterator<Item = &'static str> {
    NODES.iter().map(|(name, _, _)| *name)
}

/// The parts of sysfs that this machine has.
fn host_sysfs_parts() -> impl Iterator<Item = &'static str> {
    SYSFS_PARTS
        .into_iter()
        .filter(|part| std::path::Path::new("/sys").join(part).is_dir())
}

/// Prepared file systems, attached in the launcher's own mount namespace, where they can be copied.
#[derive(Debug)]
pub(crate) struct MountTemplates {
    devices: OwnedFd,
    system: OwnedFd,
}

impl MountTemplates {
    pub(super) fn open() -> Result<Self, Errno> {
        let holder = mount::filesystem(
            "tmpfs",
            &[Parameter::Text("size", "1m")],
            Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOSUID,
        )?;
        for place in ["dev", "sys", "temporary"] {
            mkdirat(&holder, place, Mode::from_raw_mode(0o755))?;
        }
        // Over a directory below which no image can be.
        mount::attach(&holder, CWD, c"/proc/fs")?;
        Ok(Self {
            devices: dev_template(&holder)?,
            system: sys_template(&holder)?,
        })
    }

    /// Mounts a file system in the launcher's own namespace, until the answer is dropped.
    pub(crate) fn mount_temporarily(file_system: &OwnedFd) -> Result<TemporaryMount, Errno> {
        mount::attach(file_system, CWD, TEMPORARY)?;
        Ok(TemporaryMount(()))
    }

    /// A sandbox's `/dev`, without what is mounted in it.
    pub(crate) fn devices(&self) -> Result<OwnedFd, Errno> {
        mount::clone_tree(&self.devices, c"", false)
    }

    /// A sandbox's `/sys`.
    pub(crate) fn system(&self) -> Result<OwnedFd, Errno> {
        mount::clone_tree(&self.system, c"", true)
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

/// An empty file system for `/dev` or `/sys`.
pub(crate) fn small_tree(attributes: Attributes) -> Result<OwnedFd, Errno> {
    mount::filesystem(
        "tmpfs",
        &[
            Parameter::Text("size", "64k"),
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

fn dev_template(holder: &OwnedFd) -> Result<OwnedFd, Errno> {
    let tree = small_tree(Attributes::empty())?;
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            &tree,
            name,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )?;
        chmodat(&tree, name, mode, AtFlags::empty())?;
    }
    populate_dev(&tree)?;
    mount::attach(&tree, holder, c"dev")?;
    mount::set_attributes(&tree, c"", false, Attributes::MOUNT_ATTR_RDONLY)?;
    Ok(tree)
}

fn sys_template(holder: &OwnedFd) -> Result<OwnedFd, Errno> {
    let tree = small_tree(Attributes::MOUNT_ATTR_NODEV)?;
    mount::attach(&tree, holder, c"sys")?;
    populate_sys(&tree)?;
    Ok(tree)
}

/// Mounts the parts of the host's sysfs, into a tree that is attached already.
pub(crate) fn populate_sys(tree: impl AsFd) -> Result<(), Errno> {
    mkdirat(&tree, "firmware", Mode::from_raw_mode(0o755))?;
    for part in host_sysfs_parts() {
        let mut path = String::new();
        for name in part.split('/') {
            path.push_str(name);
            match mkdirat(&tree, &path, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            path.push('/');
        }
        let host = openat(
            CWD,
            format!("/sys/{part}"),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        mount::attach(mount::clone_tree(&host, c"", false)?, &tree, part)?;
    }
    mount::set_attributes(
        &tree,
        c"",
        true,
        Attributes::MOUNT_ATTR_RDONLY
            | Attributes::MOUNT_ATTR_NOSUID
            | Attributes::MOUNT_ATTR_NODEV
            | Attributes::MOUNT_ATTR_NOEXEC,
    )
}
