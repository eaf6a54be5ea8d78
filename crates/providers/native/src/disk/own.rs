//! A file system of a box's own: a file in its directory, a loop device, ext4 without a journal.
//!
//! It is mounted nowhere on the host. The sandbox's overlays hold it, and with the last of them
//! the kernel takes file system and device away by itself, whoever has crashed meanwhile.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use stacyvm_sys::loop_device;
use stacyvm_sys::mount::{self, Attributes, Parameter};

use super::image::Images;

/// The file, inside a box directory.
const DISK_FILE: &str = "disk.ext4";

/// Makes the file system; answers the device's number and the file system's root. Blocks.
pub(super) fn make(images: &Images, box_dir: &Path, mb: u64) -> io::Result<(u32, OwnedFd)> {
    let file = images.get(mb, box_dir)?.write(&box_dir.join(DISK_FILE))?;
    let made = loop_device::attach(file.as_fd())?;
    let root = mounted(made.number)?;
    Ok((made.number, root))
}

fn mounted(number: u32) -> io::Result<OwnedFd> {
    let device = loop_device::path(number);
    let parameters = [
        Parameter::Text("source", &device.to_string_lossy()),
        // Else a thread of the kernel fills the tables with zeros, and the file with them.
        Parameter::Flag("noinit_itable"),
        // What is asked of a disk that ends with its sandbox to be safe from a loss of power.
        Parameter::Flag("nobarrier"),
    ];
    let attributes = Attributes::MOUNT_ATTR_NODEV
        | Attributes::MOUNT_ATTR_NOSUID
        | Attributes::MOUNT_ATTR_NOATIME;
    Ok(mount::filesystem("ext4", &parameters, attributes)?)
}

/// Gives the file system of a box up that is about to be ended: else the kernel writes all that is
/// still in memory into a file that nobody wants any more, and the end waits for it. Does nothing
/// when the device is another one's by now. Blocks.
pub(crate) fn give_up(box_dir: &Path, number: u32) -> io::Result<()> {
    let about = match std::fs::symlink_metadata(box_dir.join(DISK_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        about => about?,
    };
    if loop_device::backing(number) != Some((about.dev(), about.ino())) {
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
