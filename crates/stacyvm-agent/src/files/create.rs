//! Creating directories, and names for files that exist for a moment only.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::info;
use super::root::open_beneath;

/// Makes the directory `name` in `parent` with exactly these permission bits; success when a
/// directory is there already.
pub(super) fn make_directory(parent: impl AsFd, name: &str, bits: u32) -> Result<(), Errno> {
    let parent = parent.as_fd();
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(bits)) {
        Ok(()) => {
            // The process's umask took bits away; the directory is opened without following a
            // link, so a swap cannot make this touch anything else than a directory in here.
            match open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(made) => rustix::fs::fchmod(&made, Mode::from_raw_mode(bits)),
                // Not readable for its own owner, as asked, or swapped already.
                Err(_) => Ok(()),
            }
        }
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match info::file_type(&stat) {
                FileType::Directory => Ok(()),
                _ => Err(Errno::EXIST),
            }
        }
        Err(errno) => Err(errno),
    }
}

/// A random name for a temporary file, so that a workload cannot put a file in its way.
pub(super) fn temporary_name() -> Result<String, Errno> {
    let mut random = [0_u8; 8];
    let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    if filled != random.len() {
        return Err(Errno::IO);
    }
    Ok(format!(".stacyvm-{:016x}.tmp", u64::from_ne_bytes(random)))
}
