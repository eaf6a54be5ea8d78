//! What is mounted inside `/dev`: terminals, shared memory, message queues.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use stacyvm_sys::mount::{self, Attributes, Parameter};

use crate::control::LaunchFailure;
use crate::failure::Step;

/// The group of terminals, `tty` on every distribution.
const TTY_GROUP: &str = "5";

/// The file systems inside `/dev`, not attached yet.
#[derive(Debug)]
pub(crate) struct DeviceMounts {
    terminals: OwnedFd,
    shared_memory: OwnedFd,
    /// None where the kernel has none.
    queues: Option<OwnedFd>,
}

/// The most that `/dev/shm` holds, bytes: what container engines give.
const SHARED_MEMORY: u64 = 64 << 20;

/// Makes the file systems. `groups` tells whether the sandbox has more than one group; `memory_bytes` is its
/// limit, of which shared memory may use up half: memory that belongs to no process frees nothing
/// when processes are ended for want of it, and the agent would be among them.
pub(crate) fn make(groups: bool, memory_bytes: u64) -> Result<DeviceMounts, LaunchFailure> {
    let quiet = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NOEXEC;
    let mut terminal_parameters = vec![
        Parameter::Text("mode", "620"),
        Parameter::Text("ptmxmode", "666"),
    ];
    if groups {
        terminal_parameters.push(Parameter::Text("gid", TTY_GROUP));
    }
    let terminals =
        mount::filesystem("devpts", &terminal_parameters, quiet).step("make /dev/pts")?;
    let size = SHARED_MEMORY.min(memory_bytes / 2).to_string();
    let shared_memory = mount::filesystem(
        "tmpfs",
        &[
            Parameter::Text("size", &size),
            Parameter::Text("mode", "1777"),
        ],
        quiet | Attributes::MOUNT_ATTR_NODEV,
    )
    .step("make /dev/shm")?;
    let queues = match mount::filesystem("mqueue", &[], quiet | Attributes::MOUNT_ATTR_NODEV) {
        Ok(queues) => Some(queues),
        Err(Errno::NODEV) => None,
        Err(errno) => return Err(errno).step("make /dev/mqueue"),
    };
    Ok(DeviceMounts {
        terminals,
        shared_memory,
        queues,
    })
}

impl DeviceMounts {
    /// Attaches them below the root's `/dev`.
    pub(crate) fn attach(&self, root: &OwnedFd) -> Result<(), LaunchFailure> {
        mount::attach(&self.terminals, root, c"dev/pts").step("mount /dev/pts")?;
        mount::attach(&self.shared_memory, root, c"dev/shm").step("mount /dev/shm")?;
        match &self.queues {
            Some(queues) => mount::attach(queues, root, c"dev/mqueue").step("mount /dev/mqueue"),
            None => Ok(()),
        }
    }
}

/// Binds one of the host's device nodes, where the process may not make nodes.
pub(crate) fn bind_host_node(tree: impl AsFd, name: &str) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(&tree, name, flags, Mode::from_raw_mode(0o666))?;
    let node = mount::clone_tree(CWD, format!("/dev/{name}"), false)?;
    mount::attach(&node, &tree, name)
}
