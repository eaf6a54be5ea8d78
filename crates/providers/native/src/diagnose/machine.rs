//! What the kernel has for boxes: its version, its file systems, what it counts and limits.

use std::path::Path;

use stacyvm_sys::cgroup::Layout;

use super::{Finding, Level, finding};
use crate::disk::{self, Mechanism};

/// The first kernel that has everything that is used where it is there: overlays whose layers have
/// their ids mapped, and Landlock's second version. Native sandboxes work on older ones, with less.
const COMPLETE: (u32, u32) = (5, 19);

/// The kernel's own version.
pub(super) fn kernel() -> Finding {
    let name = "kernel";
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    match version(&release) {
        Some(found) if found < COMPLETE => finding(
            name,
            Level::Warn,
            format!(
                "Linux {release} is old: before {}.{} files of an image cannot be given their \
                 owners inside without a copy, and Landlock is missing",
                COMPLETE.0, COMPLETE.1
            ),
        )
        .remedy("apt-get install linux-image-amd64, and boot it"),
        Some(_) => finding(name, Level::Ok, format!("Linux {release}")),
        None => finding(
            name,
            Level::Warn,
            format!("{release:?} is no version that is known"),
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The hierarchies, and each controller.
pub(super) fn control_groups() -> Vec<Finding> {
    let layout = Layout::detect();
    let unified = layout
        .unified
        .as_ref()
        .and_then(|place| std::fs::read_to_string(place.own.join("cgroup.controllers")).ok())
        .unwrap_or_default();
    let kind = layout.kind();
    let level = if kind == "none" {
        Level::Warn
    } else {
        Level::Ok
    };
    let mut findings = vec![finding("cgroups", level, kind)];
    for (controller, v1, what) in [
        ("memory", "memory", "memory"),
        ("pids", "pids", "the number of processes"),
        ("cpu", "cpu", "processor time"),
        ("io", "blkio", "the speed of input and output"),
    ] {
        let version = if layout.v1.contains_key(v1) {
            "version 1"
        } else if unified.split_whitespace().any(|name| name == controller) {
            "version 2"
        } else {
            let text = format!("no controller {controller}: {what} is not limited");
            findings.push(
                finding("cgroups", Level::Warn, text)
                    .remedy("run as root, or give the service Delegate=yes in systemd"),
            );
            continue;
        };
        let text = format!("{controller}: {what} can be limited ({version})");
        findings.push(finding("cgroups", Level::Ok, text));
    }
    findings
}

/// How disks are limited, found out by making one in `place`, a directory of the data directory's
/// file system. Blocks.
pub(super) fn disk_quota(place: &Path) -> Finding {
    let name = "disk quota";
    let mechanism = Mechanism::of(place);
    if let Mechanism::None { why, remedy } = mechanism {
        let text = format!("what a sandbox writes cannot be limited: {why}");
        return finding(name, Level::Warn, text).remedy(remedy);
    }
    if let Err(error) = disk::attempt(place) {
        let text = format!("what a sandbox writes cannot be limited: {error}");
        return finding(name, Level::Warn, text).remedy(
            "apt-get install e2fsprogs; modprobe loop; look into the kernel's log (dmesg)",
        );
    }
    match mechanism {
        Mechanism::Project => finding(
            name,
            Level::Ok,
            "project quotas of the data directory's file system: a limit costs nothing",
        ),
        _ => finding(
            name,
            Level::Ok,
            "a file system of its own, on a loop device, for each sandbox that has a limit; with \
             the data directory on ext4 or XFS mounted with prjquota it would cost less",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        for (release, expected) in [
            ("6.18.44-fc-v657", Some((6, 18))),
            ("5.10.0-30-amd64", Some((5, 10))),
            ("5.19", Some((5, 19))),
            ("4.18.0-553.el8.x86_64", Some((4, 18))),
            ("none", None),
            ("", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
        assert_eq!(kernel().name, "kernel");
    }
}
