//! Loop devices: a file as a block device, until the last user of it has gone.
//!
//! Every device made here clears itself (`LO_FLAGS_AUTOCLEAR`): it exists exactly as long as a process
//! holds it open or it is mounted, so a crash leaves none. Numbers are machine-wide and reused, so a
//! number alone identifies nothing: [`backing`] tells which file a device has.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, Result};

// From <linux/loop.h>.
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// How many free devices are tried when other processes take them first.
const ATTEMPTS: usize = 256;

/// A device with a file attached.
#[derive(Debug)]
pub struct LoopDevice {
    /// Holds the device open, until a mount does.
    pub device: OwnedFd,
    /// The device's number.
    pub number: u32,
}

/// The path of the device with a number.
#[must_use]
pub fn path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

/// Whether this process may make loop devices.
#[must_use]
pub fn available() -> bool {
    open("/dev/loop-control").is_ok()
}

/// Attaches a file to a free device.
///
/// # Errors
/// `ENOENT` where the machine has none; otherwise the error of the system call.
pub fn attach(file: BorrowedFd<'_>) -> Result<LoopDevice> {
    let control = open("/dev/loop-control")?;
    for _ in 0..ATTEMPTS {
        // SAFETY: this request takes no argument.
        let number = crate::check(libc::c_long::from(unsafe {
            libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE)
        }))?;
        let number = u32::try_from(number).map_err(|_| Errno::INVAL)?;
        let device = open(&path(number).to_string_lossy())?;
        match configure(device.as_fd(), file) {
            Ok(()) => return Ok(LoopDevice { device, number }),
            // The device was free, and another process has taken it meanwhile.
            Err(Errno::BUSY) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::BUSY)
}

/// Device and inode number of the file attached to a device; none without a file.
#[must_use]
pub fn backing(number: u32) -> Option<(u64, u64)> {
    let device = openat(
        CWD,
        path(number),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let mut info = Info::default();
    // SAFETY: the kernel writes one loop_info64 to the address given, which is what `Info` is.
    let answer = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            LOOP_GET_STATUS64,
            std::ptr::from_mut(&mut info),
        )
    };
    (answer == 0).then_some((info.device, info.inode))
}

fn open(path: &str) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Default for Info {
    fn default() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<()> {
    let config = Config {
        file: file.as_raw_fd().unsigned_abs(),
        block_size: 0,
        info: Info {
            flags: LO_FLAGS_AUTOCLEAR,
            ..Info::default()
        },
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads one loop_config from the address given, which is what `Config` is.
    crate::check(libc::c_long::from(unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            LOOP_CONFIGURE,
            std::ptr::from_ref(&config),
        )
    }))
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_device_has_its_file_behind_it_and_goes_with_its_last_user() {
        assert_eq!(size_of::<Info>(), 232, "loop_info64 of <linux/loop.h>");
        assert_eq!(size_of::<Config>(), 304, "loop_config of <linux/loop.h>");
        if !available() {
            return stacyvm_testing::skip("no loop devices, or no right to them");
        }
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 20).expect("a size");
        let made = attach(file.as_fd()).expect("a loop device");
        let about = file.metadata().expect("its numbers");
        assert_eq!(backing(made.number), Some((about.dev(), about.ino())));
        let number = made.number;
        drop(made);
        // The kernel clears the device a moment later; another process may have it by then.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while backing(number) == Some((about.dev(), about.ino())) {
            assert!(std::time::Instant::now() < deadline, "loop{number} stays");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
