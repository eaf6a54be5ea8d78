//! Who the process is: session, signals, ids, cgroup namespace, host name.

use rustix::process::{setsid, umask};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use stacyvm_sys::namespaces::{self, Kind};
use stacyvm_sys::process;

use crate::control::LaunchFailure;
use crate::failure::Step;

/// Leaves the launcher's session and takes back what the launcher does with its children.
pub(crate) fn part_from_launcher() -> Result<(), LaunchFailure> {
    setsid().step("start a session")?;
    process::reap_children_by_waiting().step("reset signals")
}

/// Takes the sandbox's own root, which is nobody outside. Before anything is mounted: the process
/// still has the host's root, who owns nothing inside.
pub(crate) fn become_root() -> Result<(), LaunchFailure> {
    const STEP: &str = "take the sandbox's ids";
    set_thread_groups(&[]).step(STEP)?;
    let (user, group) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(group, group, group).step(STEP)?;
    set_thread_res_uid(user, user, user).step(STEP)
}

/// After joining the cgroups: makes them the root of what the sandbox sees of cgroups, and names
/// the machine.
pub(crate) fn settle(name: &str) -> Result<(), LaunchFailure> {
    namespaces::leave(Kind::Cgroup).step("make the cgroup namespace")?;
    rustix::system::sethostname(name.as_bytes()).step("set the host name")?;
    // For what this process makes itself, whose modes are meant as they are written.
    umask(rustix::fs::Mode::empty());
    Ok(())
}
