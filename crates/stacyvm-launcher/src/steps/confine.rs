//! The last steps: what the process may still do, and what it goes on as.
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
use crate::{Body, Handover};

/// The descriptors that stay open.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) status: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) memory_events: Option<OwnedFd>,
}

/// How the process is to go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) open_files: u64,
    /// Whether the agent may run things as another user of the sandbox.
    pub(crate) change_ids: bool,
    pub(crate) landlock: u32,
    pub(crate) body: Body,
}

/// Standard input is empty, the other two lead nowhere: nothing of the launcher's stays.
pub(crate) fn quiet_standard_streams() -> Result<(), LaunchFailure> {
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

/// Confines the process and goes on as the body.
pub(crate) fn go_on(kept: Kept, manner: Manner) -> Result<Infallible, LaunchFailure> {
    rlimit::confine(manner.open_files).step("set resource limits")?;
    umask(Mode::from_raw_mode(0o022));
    match process::new_session_keyring() {
        // Without keyrings there is nothing to part from. Over the quota of this id nothing can be
        // had, and the filter refuses every call that could reach the inherited one.
        Ok(()) | Err(Errno::NOSYS | Errno::DQUOT) => {}
        Err(errno) => return Err(errno).step("leave the host's keyring"),
    }
    process::set_title(c"stacyvm-agent").step("name the process")?;
    let mut descriptors = vec![kept.status, kept.listener];
    descriptors.extend(kept.memory_events);
    process::become_another(descriptors, manner, body).step("close what is not needed")
}

fn body(descriptors: Vec<OwnedFd>, manner: Manner) -> i32 {
    let mut descriptors = descriptors.into_iter();
    let (Some(status), Some(listener)) = (descriptors.next(), descriptors.next()) else {
        return 1;
    };
    if let Err(failure) = confine(manner) {
        report(&status, &failure, None);
        return 1;
    }
    // End of file without a word: the setup has succeeded.
    drop(status);
    let ended = (manner.body)(Handover {
        listener,
        memory_events: descriptors.next(),
        uid: manner.uid,
        gid: manner.gid,
    });
    i32::from(ended != ExitCode::SUCCESS)
}

fn confine(manner: Manner) -> Result<(), LaunchFailure> {
    let kept = if manner.change_ids {
        Set::SETUID | Set::SETGID | Set::KILL
    } else {
        Set::empty()
    };
    caps::confine(kept).step("drop capabilities")?;
    set_no_new_privs(true).step("set no_new_privs")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("hide the process's memory")?;
    if manner.landlock > 0 {
        landlock::confine(manner.landlock).step("confine with Landlock")?;
    }
    seccomp::confine(seccomp::filter()).step("set the system call filter")
}

/// Tells the provider which step failed, and the launcher, which may be waiting to hear.
pub(crate) fn report(status: &OwnedFd, failure: &LaunchFailure, sync: Option<&OwnedFd>) {
    let text = serde_json::to_vec(failure).unwrap_or_else(|error| {
        // A failure is three plain fields; said all the same, rather than nothing.
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
