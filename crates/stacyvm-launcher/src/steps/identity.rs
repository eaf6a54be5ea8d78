//! The process's session, signals, ids, cgroup namespace and host name.

use rustix::process::{setsid, umask};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use stacyvm_sys::namespaces::{self, Kind};
use stacyvm_sys::process;

use crate::control::LaunchFailure;
use crate::failure::Step;

/// Leaves the launcher's session and resets how the launcher handles its children.
pub(crate) fn leave_launcher_session() -> Result<(), LaunchFailure> {
    setsid().step("start a session")?;
    process::reap_children_by_waiting().step("reset signals")
}

/// Becomes the sandbox's own root, an unprivileged id outside. This comes before any mount: until
/// then the process is the host's root, who owns no file inside.
pub(crate) fn become_root() -> Result<(), LaunchFailure> {
    const STEP: &str = "take the sandbox's ids";
    set_thread_groups(&[]).step(STEP)?;
    let (user, group) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(group, group, group).step(STEP)?;
    set_thread_res_uid(user, user, user).step(STEP)
}

/// Makes the joined cgroups the root of the sandbox's view of cgroups.
pub(crate) fn enter_cgroup_namespace() -> Result<(), LaunchFailure> {
    namespaces::leave(Kind::Cgroup).step("make the cgroup namespace")
}

/// Sets the host name, and the umask under which this process makes files.
pub(crate) fn set_host_name(name: &str) -> Result<(), LaunchFailure> {
    rustix::system::sethostname(name.as_bytes()).step("set the host name")?;
    // This process gives the modes of what it makes in full.
    umask(rustix::fs::Mode::empty());
    Ok(())
}
