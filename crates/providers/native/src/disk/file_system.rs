//! A file system of a box's own: a file in its directory, a loop device, ext4 without a journal.
//!
//! It is mounted nowhere on the host. The sandbox's overlays keep it, and with the last of them the
//! kernel removes file system and device, also when a process has crashed meanwhile.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use stacyvm_sys::loop_device;
use stacyvm_sys::mount::{self, Attributes, Parameter};

use super::image::EmptyImages;

/// The file, inside a box directory.
const DISK_FILE: &str = "disk.ext4";

/// Makes the file system; answers the device's number and the file system's root. Blocks.
pub(super) fn make(images: &EmptyImages, box_dir: &Path, mb: u64) -> io::Result<(u32, OwnedFd)> {
    let file = images.get(mb, box_dir)?.write(&box_dir.join(DISK_FILE))?;
    let made = loop_device::attach(file.as_fd())?;
    let root = mounted(made.number)?;
    Ok((made.number, root))
}

fn mounted(number: u32) -> io::Result<OwnedFd> {
    let device = loop_device::path(number);
    let parameters = [
        Parameter::Text("source", &device.to_string_lossy()),
        // Without it a thread of the kernel fills the tables, and so the file, with zeros.
        Parameter::Flag("noinit_itable"),
        // The disk ends with its sandbox, so it need not survive a loss of power.
        Parameter::Flag("nobarrier"),
    ];
    let attributes = Attributes::MOUNT_ATTR_NODEV
        | Attributes::MOUNT_ATTR_NOSUID
        | Attributes::MOUNT_ATTR_NOATIME;
    Ok(mount::filesystem("ext4", &parameters, attributes)?)
}

/// Shuts the file system of a box down that is about to be ended: otherwise the kernel writes what is
/// still in memory into a file that will be deleted, and the end waits for it. Does nothing when the
/// device belongs to another file by now. Blocks.
pub(crate) fn shut_down(box_dir: &Path, number: u32) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(box_dir.join(DISK_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if loop_device::backing(number) != Some((metadata.dev(), metadata.ino())) {
        return Ok(());
    }
    // The same file system as the sandbox's: the kernel knows one for each device.
    let root = mounted(number)?;
    let directory = rustix::fs::openat(
        &root,
        ".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    Ok(mount::give_up(&directory)?)
}
