//! Modes, times and extended attributes of what an archive describes.

use std::os::fd::AsFd;

use rustix::fs::{Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

/// Both times of a file, from the seconds since 1970 that an archive says.
pub fn times(modified: u64) -> Timestamps {
    let time = Timespec {
        // A time that no calendar has is as good as none; the file system cuts the others.
        tv_sec: i64::try_from(modified).unwrap_or(0),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Gives an open file or directory its permission bits and its time. Both are tried.
///
/// # Errors
/// The kernel's own; the first of two.
pub fn set_mode_and_time(file: impl AsFd, mode: u32, modified: u64) -> Result<(), Errno> {
    let timed = rustix::fs::futimens(&file, &times(modified));
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    timed
}

/// Gives an open file or directory those attributes that mean nothing to the system: `user.`, but
/// not overlayfs's own. Answers how many it did not get, because of their name or of the disk.
pub fn set_user_attributes(file: impl AsFd, xattrs: &[(Vec<u8>, Vec<u8>)]) -> u64 {
    let mut lost = 0;
    for (name, value) in xattrs {
        let harmless = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        let set = harmless
            && !name.contains(&0)
            && rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()).is_ok();
        if !set {
            lost += 1;
        }
    }
    lost
}
