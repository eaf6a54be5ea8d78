//! The last steps: the process gives up its rights and goes on as the entrypoint.
//!
//! The order matters: descriptors first, then capabilities, then Landlock, then the filter, which
//! refuses most of what came before it.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior, umask};
use rustix::thread::set_no_new_privs;
use stacyvm_sys::caps::{self, Set};
use stacyvm_sys::{fds, landlock, process, rlimit, seccomp};

use crate::control::LaunchFailure;
use crate::failure::{Step, wrong};
use crate::{Entrypoint, Handover};

/// The descriptors that stay open.
#[derive(Debug)]
pub(crate) struct KeptDescriptors {
    pub(crate) status: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) memory_events: Option<OwnedFd>,
}

/// What the process is confined to, and what it goes on as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confinement {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) open_files: u64,
    /// Whether the agent may run things as another user of the sandbox.
    pub(crate) change_ids: bool,
    pub(crate) landlock: u32,
    pub(crate) entrypoint: Entrypoint,
}

/// Connects the standard streams to `/dev/null`, so that none of the launcher's stays open.
pub(crate) fn redirect_standard_streams() -> Result<(), LaunchFailure> {
    const STEP: &str = "close the standard streams";
    let null = openat(
        CWD,
        c"/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step(STEP)?;
    rustix::stdio::dup2_stdin(&null).step(STEP)?;
    rustix::stdio::dup2_stdout(&null).step(STEP)?;
    rustix::stdio::dup2_stderr(&null).step(STEP)
}

/// Confines the process and goes on as the entrypoint.
pub(crate) fn go_on(
    kept: KeptDescriptors,
    confinement: Confinement,
) -> Result<Infallible, LaunchFailure> {
    rlimit::confine(confinement.open_files).step("set resource limits")?;
    umask(Mode::from_raw_mode(0o022));
    match process::new_session_keyring() {
        // Without keyrings there is none to leave. With the quota of this id used up no other one can
        // be made, and the filter refuses every call that could reach the inherited one.
        Ok(()) | Err(Errno::NOSYS | Errno::DQUOT) => {}
        Err(errno) => return Err(errno).step("leave the host's keyring"),
    }
    process::set_title(c"stacyvm-agent").step("name the process")?;
    let mut descriptors = vec![kept.status, kept.listener];
    descriptors.extend(kept.memory_events);
    process::become_another(descriptors, confinement, run_confined).step("close what is not needed")
}

fn run_confined(descriptors: Vec<OwnedFd>, confinement: Confinement) -> i32 {
    let mut descriptors = descriptors.into_iter();
    let (Some(status), Some(listener)) = (descriptors.next(), descriptors.next()) else {
        return 1;
    };
    if let Err(failure) = confine(confinement) {
        report(&status, &failure, None);
        return 1;
    }
    // End of file without a failure means that the setup has succeeded.
    drop(status);
    let ended = (confinement.entrypoint)(Handover {
        listener,
        memory_events: descriptors.next(),
        uid: confinement.uid,
        gid: confinement.gid,
    });
    i32::from(ended != ExitCode::SUCCESS)
}

fn confine(confinement: Confinement) -> Result<(), LaunchFailure> {
    let kept = if confinement.change_ids {
        Set::SETUID | Set::SETGID | Set::KILL
    } else {
        Set::empty()
    };
    caps::confine(kept).step("drop capabilities")?;
    set_no_new_privs(true).step("set no_new_privs")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("hide the process's memory")?;
    if confinement.landlock > 0 {
        landlock::confine(confinement.landlock).step("confine with Landlock")?;
    }
    seccomp::confine(seccomp::filter()).step("set the system call filter")
}

/// Reports the failed step to the provider, and to the launcher, which may wait for it.
pub(crate) fn report(status: &OwnedFd, failure: &LaunchFailure, sync: Option<&OwnedFd>) {
    let text = serde_json::to_vec(failure).unwrap_or_else(|error| {
        // Three plain fields always serialise; should they not, at least the step is reported.
        let other = wrong("report a failed step", error.to_string());
        format!(
            "{{\"step\":\"{}\",\"errno\":0,\"message\":\"\"}}",
            other.step
        )
        .into_bytes()
    });
    if let Some(sync) = sync {
        let _ = fds::send(sync, &text, &[]);
    }
    let _ = rustix::io::write(status, &text);
}
