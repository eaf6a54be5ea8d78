//! The privileges that the process gives up before it serves anything.
//!
//! Everything it reads from then on comes from sandboxes and from name servers. Should one of them
//! take it over, it can send bytes to the network as an unprivileged user, and nothing else.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior, umask};
use rustix::thread::{
    Gid, Uid, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use stacyvm_sys::caps::{self, Set};
use stacyvm_sys::{landlock, process, rlimit, seccomp};

use crate::control::{Identity, Limits};
use crate::failure::{Failure, Step as _};

/// Address space, in bytes: all connections with their buffers take a quarter of it.
const ADDRESS_SPACE: u64 = 2 << 30;
/// Descriptors beside those of connections: listeners, questions to name servers, the rest.
const OTHER_FILES: u64 = 2 * crate::connection_limits::MAX_WAITING as u64 + 64;

/// Detaches the process from its parent's session, working directory and keyring. Needs no sockets,
/// so it comes first.
pub(crate) fn detach() -> Result<(), Failure> {
    // Fails when the process leads a group already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").step("leave the working directory")?;
    umask(rustix::fs::Mode::from_raw_mode(0o077));
    process::set_title(c"stacyvm-egress").step("name the process")?;
    match process::new_session_keyring() {
        // Without keyrings there is none to leave; over the quota there is no new one.
        Ok(()) | Err(Errno::NOSYS | Errno::DQUOT | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno).step("leave the host's keyring"),
    }
}

/// Gives up all privileges, in an order in which each step is still permitted. Returns the version
/// of Landlock that is in force, 0 for none.
pub(crate) fn confine(identity: Option<Identity>, limits: &Limits) -> Result<u32, Failure> {
    // Two sockets for a connection through the proxy.
    rlimit::confine(2 * u64::from(limits.connections) + OTHER_FILES).step("set resource limits")?;
    rlimit::address_space(ADDRESS_SPACE).step("limit the address space")?;
    caps::confine(Set::SETUID | Set::SETGID).step("drop capabilities")?;
    if let Some(identity) = identity {
        change_identity(identity)?;
    }
    caps::confine(Set::empty()).step("drop the last capabilities")?;
    set_no_new_privs(true).step("set no_new_privs")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("hide the process's memory")?;
    let version = landlock::version();
    if version > 0 {
        landlock::confine_without_files(version).step("confine with Landlock")?;
    }
    seccomp::confine(&seccomp::network_filter()).step("set the system call filter")?;
    Ok(version)
}

fn change_identity(identity: Identity) -> Result<(), Failure> {
    const STEP: &str = "take another identity";
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    set_thread_groups(&[]).step(STEP)?;
    set_thread_res_gid(gid, gid, gid).step(STEP)?;
    set_thread_res_uid(uid, uid, uid).step(STEP)
}
