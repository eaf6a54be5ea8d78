//! Finding out what this machine gives, by launching a sandbox and ending it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::pipe::{PipeFlags, pipe_with};
use stacyvm_sys::{cgroup, pidfd, seccomp};

use crate::Options;
use crate::control::{LaunchFailure, LaunchRequest, Launched, Limits, OverlaySpec, ProbeReport};
use crate::failure::{Step, wrong};
use crate::launch::launch;
use crate::serve::prepare_launcher;
use crate::state::LauncherState;

/// How long the probe's sandbox may take to come up and to end.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// A range that no provider gives out.
const ID_BASE: u32 = 0x1fff_0000;
const MEBIBYTE: u64 = 1 << 20;

/// Launches a sandbox with an empty root below `place`, ends it and reports the outcome.
#[must_use]
pub fn probe(place: &Path, options: Options) -> ProbeReport {
    let mut report = ProbeReport {
        failure: None,
        degraded: Vec::new(),
        id_ranges: false,
        landlock: 0,
        seccomp: seccomp::available(),
        cgroups: String::new(),
        controllers: Vec::new(),
    };
    match prepare_launcher(options) {
        Ok(mut state) => {
            report.id_ranges = state.privileged.is_some();
            report.landlock = state.landlock;
            state.cgroup_kind().clone_into(&mut report.cgroups);
            match try_launch(&mut state, place) {
                Ok(launched) => {
                    report.degraded = launched.degraded;
                    report.controllers = launched.cgroups.into_keys().collect();
                }
                Err(failure) => report.failure = Some(failure),
            }
        }
        Err(failure) => report.failure = Some(failure),
    }
    report
}

fn try_launch(state: &mut LauncherState, place: &Path) -> Result<Launched, LaunchFailure> {
    let id = format!("probe-{}", std::process::id());
    let directory = place.join(&id);
    let made = make_and_launch(state, &directory, &id);
    let removed = std::fs::remove_dir_all(&directory);
    let launched = made?;
    removed.step("remove the trial's directory")?;
    Ok(launched)
}

fn make_and_launch(
    state: &mut LauncherState,
    directory: &Path,
    id: &str,
) -> Result<Launched, LaunchFailure> {
    let lower = directory.join("image");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&lower)
        .step("make the trial's directory")?;
    // One level down: what the launcher does to the directory of boxes is not done to the caller's.
    let box_dir = directory.join("box");
    std::fs::create_dir(&box_dir).step("make the trial's directory")?;
    let listener = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .step("make a socket")?;
    let (status, status_end) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
    let request = request(id, box_dir, lower);
    let (launched, pidfd) = launch(state, &request, listener, status_end, None, None)?;
    let outcome = read_status(status);
    let _ = pidfd::kill(&pidfd);
    let ended = pidfd::wait(&pidfd, PROBE_TIMEOUT).step("end the trial")?;
    cgroup::remove(&launched.cgroups, PROBE_TIMEOUT).step("remove the trial's cgroup")?;
    for above in launched.cgroups.values().filter_map(|one| one.parent()) {
        // Another trial may use it at this moment.
        let _ = std::fs::remove_dir(above);
        let _ = above.parent().map(std::fs::remove_dir);
    }
    outcome?;
    if !ended {
        return Err(wrong("end the trial", "its process is still there"));
    }
    Ok(launched)
}

fn request(id: &str, box_dir: PathBuf, lower: PathBuf) -> LaunchRequest {
    LaunchRequest {
        seq: 0,
        id: id.to_owned(),
        disk: false,
        box_dir,
        overlays: vec![OverlaySpec {
            target: "/".into(),
            lowers: vec![lower],
            of_host: None,
        }],
        read_only_rootfs: false,
        id_base: ID_BASE,
        id_count: 65_536,
        uid: 1000,
        gid: 1000,
        limits: Limits {
            memory_bytes: 64 * MEBIBYTE,
            vcpus: 1.0,
            pids: 16,
            open_files: 256,
            io: None,
        },
        cgroup_parent: "stacyvm/probe".to_owned(),
        network: None,
    }
}

/// Waits for the end of the setup; the failure that the first process reports is the error.
fn read_status(status: OwnedFd) -> Result<(), LaunchFailure> {
    const STEP: &str = "wait for the trial";
    if !pidfd::wait(&status, PROBE_TIMEOUT).step(STEP)? {
        return Err(wrong(STEP, "it did not come up in time"));
    }
    let mut text = Vec::new();
    File::from(status)
        .take(16 * 1024)
        .read_to_end(&mut text)
        .step(STEP)?;
    if text.is_empty() {
        return Ok(());
    }
    Err(serde_json::from_slice(&text).unwrap_or_else(|_| wrong(STEP, "it said nonsense")))
}
