//! One launch, as the launcher sees it: make what the sandbox needs, start its first process, give
//! it its ids and file systems, record it, let it go.
//!
//! ```text
//! launcher                                 first process
//! cgroups, network
//! clone3 ────────────────────────────────▶ waits
//! id maps, "mapped" ─────────────────────▶ ids, cgroups, host name, /proc, /dev
//! layers, overlays, pid.json               waits
//! "go", with the mounts ─────────────────▶ root, pivot, confine; closes the status pipe
//! answers                                  goes on as the agent
//! ```
//! Until "go" the first process ends with the launcher, because its socket closes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use stacyvm_sys::cgroup::{self, Group, GroupError};
use stacyvm_sys::clone::{Cloned, Namespaces, clone_process};
use stacyvm_sys::namespaces::{self, IdRange};
use stacyvm_sys::{fds, mount, pidfd, proc};

use crate::box_dir::BoxDir;
use crate::child::{self, ChildSetup, GO, MAPPED};
use crate::control::{LaunchFailure, LaunchRequest, Launched, Limits};
use crate::failure::{Step, refused, wrong};
use crate::overlay::{LayerStaging, OverlayBuilder};
use crate::request;
use crate::state::{LauncherState, SystemMounts};

/// How long a process that has been killed may take to end before its cgroup is left behind.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes one sandbox. On a failure nothing of it is left but what is in its directory.
pub(crate) fn launch(
    state: &mut LauncherState,
    request: &LaunchRequest,
    listener: OwnedFd,
    status: OwnedFd,
    network: Option<OwnedFd>,
    disk: Option<OwnedFd>,
) -> Result<(Launched, OwnedFd), LaunchFailure> {
    request::check(request)?;
    let id_base = state.privileged.as_ref().map(|_| request.id_base);
    let _mounted = match &disk {
        Some(disk) => state.mount_disk(disk)?,
        None => None,
    };
    let box_dir = BoxDir::open(&request.box_dir, id_base, disk)?;
    state.separate_boxes(&request.box_dir);
    let mut degraded = state.degraded();
    let parent = state.parent(&request.cgroup_parent, request.limits.io.is_some());
    degraded.extend_from_slice(parent.degraded());
    let group = parent
        .create(&request.id, &group_limits(&request.limits))
        .map_err(|error: GroupError| refused(error.step, error.errno))?;
    let directories = group.directories.clone();
    let started = start(state, request, group, listener, status, network);
    let (sync, pid, pidfd) = match started {
        Ok(started) => started,
        Err(failure) => {
            let _ = cgroup::remove(&directories, EXIT_TIMEOUT);
            return Err(failure);
        }
    };
    let finished = finish(state, request, &box_dir, &sync, pid, &mut degraded).and_then(|mounts| {
        let launched = Launched {
            pid,
            start_ticks: proc::start_ticks(pid)
                .ok_or_else(|| wrong("look at the sandbox's process", "it has ended"))?,
            cgroups: directories.clone(),
            degraded,
        };
        box_dir.write_pid_file(&launched)?;
        let mounts: Vec<BorrowedFd<'_>> = mounts.iter().map(AsFd::as_fd).collect();
        fds::send(&sync, GO, &mounts).step("let the sandbox go on")?;
        Ok(launched)
    });
    match finished {
        Ok(launched) => Ok((launched, pidfd)),
        Err(failure) => {
            let failure = child_failure(&sync).unwrap_or(failure);
            drop(sync);
            let _ = pidfd::kill(&pidfd);
            let _ = pidfd::wait(&pidfd, EXIT_TIMEOUT);
            box_dir.remove_pid_file();
            let _ = cgroup::remove(&directories, EXIT_TIMEOUT);
            Err(failure)
        }
    }
}

/// The failure that the first process reported before it ended: the reason for the launcher's own.
fn child_failure(sync: &OwnedFd) -> Option<LaunchFailure> {
    let mut buffer = [0; 4096];
    if !pidfd::wait(sync, Duration::ZERO).ok()? {
        return None;
    }
    let (length, _) = fds::receive(sync, &mut buffer).ok()?;
    serde_json::from_slice(&buffer[..length]).ok()
}

fn group_limits(limits: &Limits) -> cgroup::Limits {
    cgroup::Limits {
        memory_bytes: limits.memory_bytes,
        // Checked to be between 1 and some millions.
        cpu_hundredths: (limits.vcpus * 100.0).round() as u32,
        pids: limits.pids,
        io: limits.io.map(|io| cgroup::IoLimits {
            device: io.device,
            read_bps: io.read_bps,
            write_bps: io.write_bps,
            read_iops: io.read_iops,
            write_iops: io.write_iops,
        }),
    }
}

/// Starts the first process. In it, this does not return.
fn start(
    state: &mut LauncherState,
    request: &LaunchRequest,
    group: Group,
    listener: OwnedFd,
    status: OwnedFd,
    network: Option<OwnedFd>,
) -> Result<(OwnedFd, i32, OwnedFd), LaunchFailure> {
    let (sync, childs_sync) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .step("make the socket to the sandbox's process")?;
    let mut new_namespaces = Namespaces::USER
        .and(Namespaces::PID)
        .and(Namespaces::MOUNT)
        .and(Namespaces::UTS)
        .and(Namespaces::IPC);
    if state.time_namespaces {
        new_namespaces = new_namespaces.and(Namespaces::TIME);
    }
    if let Some(privileged) = &mut state.privileged {
        let network = match network {
            Some(network) => network,
            None => privileged.take_network()?,
        };
        namespaces::enter(&network).step("enter the sandbox's network")?;
        namespaces::enter(&privileged.staging).step("enter the staging namespace")?;
    } else if network.is_some() {
        return Err(wrong(
            "enter the sandbox's network",
            "that takes root, and the launcher is not",
        ));
    } else {
        new_namespaces = new_namespaces.and(Namespaces::NETWORK);
    }
    let cloned = clone_process(new_namespaces, group.birthplace());
    if let Ok(Cloned::Child) = cloned {
        // Else the end of the launcher would not show.
        drop(sync);
        child::run(
            ChildSetup {
                sync: childs_sync,
                status,
                listener,
                group,
            },
            state,
            request,
        );
    }
    if let Some(privileged) = &state.privileged {
        // A launcher in the wrong namespace cannot work; the provider starts another one.
        let back = namespaces::enter(&privileged.host_mounts)
            .and_then(|()| namespaces::enter(&privileged.host_network));
        if back.is_err() {
            stacyvm_sys::process::exit_now(1);
        }
    }
    match cloned.step("start the sandbox's process")? {
        Cloned::Parent { pid, pidfd } => Ok((sync, pid, pidfd)),
        Cloned::Child => unreachable!("the child does not return from `child::run`"),
    }
}

/// Gives the first process its ids, and makes the mounts that it is to use.
fn finish(
    state: &LauncherState,
    request: &LaunchRequest,
    box_dir: &BoxDir,
    sync: &OwnedFd,
    pid: i32,
    degraded: &mut Vec<String>,
) -> Result<Vec<OwnedFd>, LaunchFailure> {
    let Some(privileged) = &state.privileged else {
        map_single_id(request, pid)?;
        fds::send(sync, MAPPED, &[]).step("tell the sandbox its ids")?;
        box_dir.make_layers(request)?;
        return Ok(Vec::new());
    };
    let range = IdRange {
        inside: 0,
        outside: request.id_base,
        count: request.id_count,
    };
    namespaces::map_ids(pid, range, range, false).step("map the sandbox's ids")?;
    fds::send(sync, MAPPED, &[]).step("tell the sandbox its ids")?;
    let mapping = namespaces::user_namespace_of(pid).step("open the sandbox's user namespace")?;
    box_dir.make_layers(request)?;
    let builder = OverlayBuilder {
        box_dir,
        mapping: Some(mapping.as_fd()),
        staging: LayerStaging {
            directory: "/staging",
            namespaces: Some((privileged.staging.as_fd(), privileged.host_mounts.as_fd())),
            by_path: state.options.overlay_by_path,
        },
        unprivileged: false,
        used_mounts: &state.used_mounts,
    };
    let mut mounts = Vec::new();
    for (number, overlay) in request.overlays.iter().enumerate() {
        mounts.push(builder.build(number, overlay, degraded)?);
    }
    let SystemMounts { devices, system } = privileged.take_mounts()?;
    // Without the mapping the nodes belong to the overflow user and work all the same.
    let _ = mount::map_ids(&devices, &mapping);
    mounts.extend([devices, system]);
    Ok(mounts)
}

fn map_single_id(request: &LaunchRequest, pid: i32) -> Result<(), LaunchFailure> {
    let one = |inside, outside| IdRange {
        inside,
        outside,
        count: 1,
    };
    namespaces::map_ids(
        pid,
        one(request.uid, rustix::process::geteuid().as_raw()),
        one(request.gid, rustix::process::getegid().as_raw()),
        true,
    )
    .step("map the sandbox's ids")
}
