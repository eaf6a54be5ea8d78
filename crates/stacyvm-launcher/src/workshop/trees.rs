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

/// An empty directory of `/sys`, with which others are covered.
pub(crate) const EMPTY_DIRECTORY: &str = "sys/firmware";

/// Where a file system stands for a moment that must be mounted to be copied from.
const STAND: &str = "/proc/fs/stand";

/// Names of the device nodes.
pub(crate) fn device_names() -> impl Iterator<Item = &'static str> {
    NODES.iter().map(|(name, _, _)| *name)
}

/// Those of the sysfs parts that this machine has.
fn host_sysfs_parts() -> impl Iterator<Item = &'static str> {
    SYSFS_PARTS
        .into_iter()
        .filter(|part| std::path::Path::new("/sys").join(part).is_dir())
}

/// The prepared trees, attached in the launcher's own mount namespace, where they can be copied.
#[derive(Debug)]
pub(crate) struct Trees {
    devices: OwnedFd,
    system: OwnedFd,
}

impl Trees {
    pub(super) fn open() -> Result<Self, Errno> {
        let bench = mount::filesystem(
            "tmpfs",
            &[Parameter::Text("size", "1m")],
            Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOSUID,
        )?;
        for place in ["dev", "sys", "stand"] {
            mkdirat(&bench, place, Mode::from_raw_mode(0o755))?;
        }
        // Over a place that no image can be under.
        mount::attach(&bench, CWD, c"/proc/fs")?;
        Ok(Self {
            devices: device_tree(&bench)?,
            system: system_tree(&bench)?,
        })
    }

    /// Mounts a file system in the launcher's own namespace, until the answer is dropped.
    pub(crate) fn stand(file_system: &OwnedFd) -> Result<Standing, Errno> {
        mount::attach(file_system, CWD, STAND)?;
        Ok(Standing(()))
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

/// A file system that is mounted for a moment.
#[derive(Debug)]
pub(crate) struct Standing(());

impl Drop for Standing {
    fn drop(&mut self) {
        // Nothing else is ever mounted there, so nothing else can be meant.
        let _ = mount::detach(STAND);
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

/// The links and mount points of `/dev`.
pub(crate) fn furnish_devices(tree: impl AsFd) -> Result<(), Errno> {
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

fn device_tree(bench: &OwnedFd) -> Result<OwnedFd, Errno> {
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
    furnish_devices(&tree)?;
    mount::attach(&tree, bench, c"dev")?;
    mount::set_attributes(&tree, c"", false, Attributes::MOUNT_ATTR_RDONLY)?;
    Ok(tree)
}

fn system_tree(bench: &OwnedFd) -> Result<OwnedFd, Errno> {
    let tree = small_tree(Attributes::MOUNT_ATTR_NODEV)?;
    mount::attach(&tree, bench, c"sys")?;
    furnish_system(&tree)?;
    Ok(tree)
}

/// Mounts the parts of the host's sysfs, into a tree that is attached already.
pub(crate) fn furnish_system(tree: impl AsFd) -> Result<(), Errno> {
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
