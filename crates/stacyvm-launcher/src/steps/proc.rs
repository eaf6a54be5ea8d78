//! `/proc`: the sandbox's own processes, without the files that describe or change the host.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::mount_bind;
use stacyvm_sys::mount::{self, Attributes};

use crate::control::LaunchFailure;
use crate::failure::Step;
use crate::state::EMPTY_DIRECTORY;

/// Covered by `/dev/null`: memory, keys, timings of the host, and the magic request key.
const FILES: [&str; 8] = [
    "kcore",
    "keys",
    "key-users",
    "latency_stats",
    "timer_list",
    "sched_debug",
    "sysrq-trigger",
    "interrupts",
];
/// Covered by an empty directory: hardware.
const DIRECTORIES: [&str; 3] = ["acpi", "scsi", "asound"];
/// Visible but read-only.
const READ_ONLY: [&str; 4] = ["sys", "bus", "fs", "irq"];

/// The files and directories of `/proc` to cover, looked up once.
#[derive(Debug)]
pub(crate) struct Masks {
    files: Vec<String>,
    directories: Vec<String>,
    read_only: Vec<String>,
}

impl Masks {
    pub(crate) fn of_this_kernel() -> Self {
        let there = |names: &[&str]| {
            names
                .iter()
                .filter(|name| Path::new("/proc").join(name).exists())
                .map(|name| format!("proc/{name}"))
                .collect()
        };
        Self {
            files: there(&FILES),
            directories: there(&DIRECTORIES),
            read_only: there(&READ_ONLY),
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
        for path in &self.read_only {
            let step = format!("make /{path} read-only");
            let tree = mount::clone_tree(CWD, path.as_str(), false).step(&step)?;
            mount::set_attributes(&tree, c"", false, Attributes::MOUNT_ATTR_RDONLY).step(&step)?;
            mount::attach(&tree, CWD, path.as_str()).step(&step)?;
        }
        Ok(())
    }
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
