//! Limits of how fast boxes read and write, and the device that they hold for.

use std::path::Path;

use rustix::fs::{major, minor, stat};
use stacyvm_launcher::control::IoLimits;

use crate::config::IoRates;

/// The limits of each box below this directory; none when nothing is limited. The second answer is
/// the degradation where limits are configured and impossible.
pub(crate) fn limits(rates: &IoRates, directory: &Path) -> (Option<IoLimits>, Option<String>) {
    if *rates == IoRates::default() {
        return (None, None);
    }
    let Some(device) = device_of(directory) else {
        let reason = "input and output are not limited: the data directory is on no block device; \
                    hint: put it on one, or take the keys providers.native.io_* out";
        return (None, Some(reason.to_owned()));
    };
    let limits = IoLimits {
        device,
        read_bps: rates.read_bps,
        write_bps: rates.write_bps,
        read_iops: rates.read_iops,
        write_iops: rates.write_iops,
    };
    (Some(limits), None)
}

/// The whole device that holds a directory.
fn device_of(directory: &Path) -> Option<(u32, u32)> {
    let device = stat(directory).ok()?.st_dev;
    whole(Path::new("/sys/dev/block"), major(device), minor(device))
}

/// The whole device of a device or partition: the kernel takes no limits for partitions.
fn whole(block: &Path, major: u32, minor: u32) -> Option<(u32, u32)> {
    let path = block.join(format!("{major}:{minor}")).canonicalize().ok()?;
    let whole = if path.join("partition").exists() {
        path.parent()?
    } else {
        &path
    };
    let text = std::fs::read_to_string(whole.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_part_of_a_device_stands_for_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("devices/sda");
        std::fs::create_dir_all(disk.join("sda1")).unwrap();
        std::fs::write(disk.join("dev"), "8:0\n").unwrap();
        std::fs::write(disk.join("sda1/dev"), "8:1\n").unwrap();
        std::fs::write(disk.join("sda1/partition"), "1\n").unwrap();
        symlink(&disk, dir.path().join("8:0")).unwrap();
        symlink(disk.join("sda1"), dir.path().join("8:1")).unwrap();
        assert_eq!(whole(dir.path(), 8, 1), Some((8, 0)));
        assert_eq!(whole(dir.path(), 8, 0), Some((8, 0)));
        assert_eq!(whole(dir.path(), 0, 31), None);
    }

    #[test]
    fn nothing_is_limited_that_nobody_asked_for() {
        let none = limits(&IoRates::default(), Path::new("/proc"));
        assert_eq!(none, (None, None));
        let rates = IoRates {
            read_bps: 1,
            ..IoRates::default()
        };
        let (limits, said) = limits(&rates, Path::new("/proc"));
        assert_eq!(limits, None);
        assert!(said.unwrap().contains("io_*"));
    }
}
