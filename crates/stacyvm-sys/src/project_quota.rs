//! Project quotas: limits on the contents of a directory, which the file system itself enforces.
//!
//! A directory gets a project number, and everything made below it inherits the number; the file
//! system counts usage for each number. Ext4 and XFS support it when mounted with `prjquota`.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

// From <linux/fs.h>.
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801C_581F;
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401C_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

// From <linux/quota.h>.
const SYS_QUOTACTL_FD: libc::c_long = 443;
const PRJQUOTA: u32 = 2;
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
// From <linux/dqblk_xfs.h>; ext4 answers it too.
const Q_XGETQSTATV: u32 = 0x5808;
const STATE_VERSION: i8 = 1;
const FS_QUOTA_PDQ_ENFD: u16 = 1 << 5;
/// `QIF_BLIMITS` and `QIF_ILIMITS`.
const LIMITS_VALID: u32 = 1 | 4;
/// The unit of limits, bytes.
const BLOCK: u64 = 1024;

/// Usage and limits of one project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Project {
    /// Bytes in use.
    pub used_bytes: u64,
    /// The most bytes; 0 is no limit.
    pub limit_bytes: u64,
    /// The most files and directories; 0 is no limit.
    pub limit_inodes: u64,
}

/// Whether the file system of a directory enforces project limits. One that only counts, such as ext4
/// with the feature but mounted without `prjquota`, does not.
#[must_use]
pub fn available(directory: impl AsFd) -> bool {
    let mut state = State {
        version: STATE_VERSION,
        padding: 0,
        flags: 0,
        rest: [0; 31],
    };
    let address = std::ptr::from_mut(&mut state).cast();
    // SAFETY: the kernel writes one fs_quota_statv to the address given; `State` begins like that
    // and is longer.
    let answer = unsafe { quotactl(directory, Q_XGETQSTATV, 0, address) };
    answer.is_ok() && state.flags & FS_QUOTA_PDQ_ENFD != 0
}

/// Sets the project number of an empty directory; everything made below it inherits the number.
///
/// # Errors
/// The error of the system call.
pub fn assign(directory: impl AsFd, project: u32) -> Result<()> {
    let descriptor = directory.as_fd().as_raw_fd();
    let mut attributes = Fsxattr::default();
    // SAFETY: the kernel writes one fsxattr to the address given, which is what `Fsxattr` is.
    crate::check(libc::c_long::from(unsafe {
        libc::ioctl(
            descriptor,
            FS_IOC_FSGETXATTR,
            std::ptr::from_mut(&mut attributes),
        )
    }))?;
    attributes.project = project;
    attributes.flags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: the kernel reads one fsxattr from the address given, which is what `Fsxattr` is.
    crate::check(libc::c_long::from(unsafe {
        libc::ioctl(
            descriptor,
            FS_IOC_FSSETXATTR,
            std::ptr::from_ref(&attributes),
        )
    }))
    .map(drop)
}

/// Sets the limits of a project, bytes and files; 0 removes a limit. `directory` is any directory on
/// the file system.
///
/// # Errors
/// The error of the system call.
pub fn limit(directory: impl AsFd, project: u32, bytes: u64, inodes: u64) -> Result<()> {
    let mut quota = Dqblk {
        block_hard: bytes.div_ceil(BLOCK),
        inode_hard: inodes,
        valid: LIMITS_VALID,
        ..Dqblk::default()
    };
    let quota = std::ptr::from_mut(&mut quota);
    // SAFETY: the kernel reads one if_dqblk from the address given, which is what `Dqblk` is.
    unsafe { quotactl(directory, Q_SETQUOTA, project, quota.cast()) }
}

/// Reads the usage and limits of a project.
///
/// # Errors
/// The error of the system call.
pub fn get(directory: impl AsFd, project: u32) -> Result<Project> {
    let mut quota = Dqblk::default();
    let address = std::ptr::from_mut(&mut quota);
    // SAFETY: the kernel writes one if_dqblk to the address given, which is what `Dqblk` is.
    unsafe { quotactl(directory, Q_GETQUOTA, project, address.cast()) }?;
    Ok(Project {
        used_bytes: quota.space,
        limit_bytes: quota.block_hard.saturating_mul(BLOCK),
        limit_inodes: quota.inode_hard,
    })
}

/// # Safety
/// `address` must point to what `command` reads or writes.
unsafe fn quotactl(
    directory: impl AsFd,
    command: u32,
    project: u32,
    address: *mut libc::c_void,
) -> Result<()> {
    // SAFETY: the caller vouches for the address; the other arguments are numbers.
    let answer = unsafe {
        libc::syscall(
            SYS_QUOTACTL_FD,
            directory.as_fd().as_raw_fd(),
            (command << 8) | PRJQUOTA,
            project,
            address,
        )
    };
    match crate::check(answer) {
        Ok(_) => Ok(()),
        // Before Linux 5.14.
        Err(Errno::NOSYS) => Err(Errno::OPNOTSUPP),
        Err(error) => Err(error),
    }
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Fsxattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct Dqblk {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// The beginning of `struct fs_quota_statv`, and more than enough room for the rest of it.
#[repr(C)]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    rest: [u64; 31],
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn layouts_are_those_of_the_kernel() {
        assert_eq!(size_of::<Fsxattr>(), 28);
        assert_eq!(size_of::<Dqblk>(), 72);
        assert_eq!(std::mem::offset_of!(State, flags), 2);
        assert!(size_of::<State>() >= 168, "fs_quota_statv");
    }

    #[test]
    fn a_file_system_without_projects_says_so() {
        // tmpfs has no project quotas on any kernel.
        let memory = File::open("/dev/shm").expect("a directory in memory");
        assert!(!available(&memory));
        assert!(limit(&memory, 7, 1 << 20, 0).is_err());
        assert!(get(&memory, 7).is_err());
    }

    #[test]
    fn a_project_is_limited_where_the_file_system_counts() {
        let place = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let directory = File::open(place.path()).expect("it is there");
        if !available(&directory) {
            return stacyvm_testing::skip("/var/tmp is on a file system without prjquota");
        }
        let project = 0x7000_0000 | std::process::id();
        assign(&directory, project).expect("a project number");
        limit(&directory, project, 1 << 20, 100).expect("a limit");
        let found = get(&directory, project).expect("the limit");
        assert_eq!((found.limit_bytes, found.limit_inodes), (1 << 20, 100));
        std::fs::write(place.path().join("file"), vec![1; 65_536]).expect("room");
        let used = get(&directory, project).expect("the use").used_bytes;
        assert!(used >= 65_536, "{used}");
        limit(&directory, project, 0, 0).expect("no limit");
    }
}
