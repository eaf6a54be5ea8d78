//! `/proc`: the sandbox's own processes, without the files that describe or change the host.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::mount_bind;
use stacyvm_sys::mount::{self, Attributes};

use crate::control::LaunchFailure;
use crate::failure::Step;
use crate::state::EMPTY_DIRECTORY;

/// Covered by `/dev/null`: what the machine is made of and started with, what it is doing, its keys
/// and memory. Programs that ask for the size of the machine read other files: `cpuinfo`, `meminfo`,
/// `stat`, `loadavg`, `uptime`, `vmstat`.
const FILES: [&str; 20] = [
    "cmdline",
    "config.gz",
    "diskstats",
    "interrupts",
    "iomem",
    "ioports",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "mdstat",
    "modules",
    "partitions",
    "sched_debug",
    "schedstat",
    "softirqs",
    "swaps",
    "sysrq-trigger",
    "timer_list",
];
/// Covered by an empty directory: devices, drivers, file systems of the host and their counters, and
/// how busy it is.
const DIRECTORIES: [&str; 8] = [
    "acpi", "asound", "bus", "driver", "fs", "irq", "pressure", "scsi",
];
/// Visible but read-only.
const READ_ONLY: &str = "sys";

/// The files and directories of `/proc` to cover, looked up once.
#[derive(Debug)]
pub(crate) struct Masks {
    files: Vec<String>,
    directories: Vec<String>,
}

impl Masks {
    pub(crate) fn of_this_kernel() -> Self {
        let open = |names: &[&str]| {
            names
                .iter()
                .filter(|name| is_open(&Path::new("/proc").join(name)))
                .map(|name| format!("proc/{name}"))
                .collect()
        };
        Self {
            files: open(&FILES),
            directories: open(&DIRECTORIES),
        }
    }

    /// Covers them. The working directory must be the sandbox's root.
    pub(crate) fn apply(&self) -> Result<(), LaunchFailure> {
        for path in &self.files {
            mount_bind("dev/null", path.as_str()).step(&format!("hide /{path}"))?;
        }
        for path in &self.directories {
            mount_bind(EMPTY_DIRECTORY, path.as_str()).step(&format!("hide /{path}"))?;
        }
        let path = format!("proc/{READ_ONLY}");
        let step = format!("make /{path} read-only");
        let tree = mount::clone_tree(CWD, path.as_str(), false).step(&step)?;
        mount::set_attributes(&tree, c"", false, Attributes::MOUNT_ATTR_RDONLY).step(&step)?;
        mount::attach(&tree, CWD, path.as_str()).step(&step)
    }
}

/// Whether there is something that others than its owner may use. The owner is the host's root, whom
/// no sandbox has among its ids, so what is closed to others needs no cover.
fn is_open(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// The process file system of this process's own namespace, mounted nowhere yet.
pub(crate) fn make() -> Result<OwnedFd, LaunchFailure> {
    mount::filesystem(
        "proc",
        &[],
        Attributes::MOUNT_ATTR_NOSUID
            | Attributes::MOUNT_ATTR_NODEV
            | Attributes::MOUNT_ATTR_NOEXEC,
    )
    .step("make /proc")
}
