//! One launch, as the sandbox's first process sees it.
//!
//! It is a copy of the launcher and applies every step to itself. In the end nothing of the
//! launcher is left in it: descriptors are closed, names overwritten, and the program that it goes
//! on as cannot get them back.

use std::convert::Infallible;
use std::os::fd::OwnedFd;

use rustix::io::dup;
use stacyvm_sys::cgroup::Group;
use stacyvm_sys::mount::{Attributes, Propagation};
use stacyvm_sys::{fds, mount, netns, process};

use crate::box_dir::BoxDir;
use crate::control::{LaunchFailure, LaunchRequest};
use crate::failure::{Step, wrong};
use crate::overlay::{LayerStaging, OverlayBuilder};
use crate::state::{
    LauncherState, SYSTEM_ATTRIBUTES, SystemCopy, device_names, populate_dev, populate_sys,
    small_tree,
};
use crate::steps::{confine, dev, identity, proc, root};

/// The launcher's message that the ids are mapped.
pub(crate) const MAPPED: &[u8] = b"mapped";
/// The launcher's message that the sandbox is recorded and may go on; the mounts come beside it.
pub(crate) const GO: &[u8] = b"go";

/// What the first process sets the sandbox up with: its descriptors and its cgroups.
#[derive(Debug)]
pub(crate) struct ChildSetup {
    pub(crate) sync: OwnedFd,
    pub(crate) status: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) group: Group,
}

/// Sets the sandbox up and goes on as its entrypoint.
pub(crate) fn run(setup: ChildSetup, state: &LauncherState, request: &LaunchRequest) -> ! {
    let Ok((status, sync)) = dup(&setup.status).and_then(|status| Ok((status, dup(&setup.sync)?)))
    else {
        process::exit_now(1)
    };
    match set_up(setup, state, request) {
        Err(failure) => confine::report(&status, &failure, Some(&sync)),
    }
    process::exit_now(1)
}

/// File systems that the sandbox's root is made of.
struct RootMounts {
    overlays: Vec<OwnedFd>,
    devices: OwnedFd,
    system: OwnedFd,
}

fn set_up(
    mut setup: ChildSetup,
    state: &LauncherState,
    request: &LaunchRequest,
) -> Result<Infallible, LaunchFailure> {
    identity::leave_launcher_session()?;
    await_message(&setup.sync, MAPPED)?;
    let privileged = state.privileged.is_some();
    if privileged {
        identity::become_root()?;
    }
    setup.group.join().step("join the cgroups")?;
    identity::enter_cgroup_namespace()?;
    identity::set_host_name(&request.id)?;
    // Made while the launcher prepares the layers.
    if !privileged {
        mount::set_propagation(Propagation::Private).step("part from the host's mounts")?;
        netns::loopback_up().step("bring the loopback up")?;
        netns::open_low_ports();
    }
    let proc_tree = proc::make()?;
    let device_mounts = dev::make(privileged, request.limits.memory_bytes)?;
    let received = await_message(&setup.sync, GO)?;
    let (mounts, root) = make_root(state, request, received)?;
    let own_copy = (!privileged).then_some(&state.system);
    mount_inside(&root, &mounts, &device_mounts, &proc_tree, own_copy)?;
    root::enter(&root)?;
    state.masks.apply()?;

    confine::redirect_standard_streams()?;
    let memory_events = setup.group.take_memory_events();
    confine::go_on(
        confine::KeptDescriptors {
            status: setup.status,
            listener: setup.listener,
            memory_events,
        },
        confine::Confinement {
            uid: request.uid,
            gid: request.gid,
            open_files: request.limits.open_files,
            change_ids: privileged,
            landlock: state.landlock,
            entrypoint: state.options.entrypoint,
        },
    )
}

/// Puts the sandbox's root together: from the mounts that the launcher has sent with privilege, else
/// from those that this process makes itself.
fn make_root(
    state: &LauncherState,
    request: &LaunchRequest,
    received: Vec<OwnedFd>,
) -> Result<(RootMounts, OwnedFd), LaunchFailure> {
    let (mounts, root) = if state.privileged.is_some() {
        let mounts = receive_mounts(received, request)?;
        let root = root::mount_overlays(&mounts.overlays, request, rustix::fs::CWD, c"/root")?;
        (mounts, root)
    } else {
        // Opened again: the launcher's descriptor leads to the launcher's mounts, and these are
        // this process's own.
        let box_dir = BoxDir::open(&request.box_dir, None, None)?;
        let mounts = make_mounts(state, request, &box_dir)?;
        let root = root::mount_overlays(&mounts.overlays, request, &box_dir, c"")?;
        (mounts, root)
    };
    if request.read_only_rootfs {
        root::make_read_only(&root, request)?;
    }
    Ok((mounts, root))
}

/// Mounts `/dev`, `/sys` and `/proc` inside the root. Without privilege the first two are empty, and
/// `own_copy` is what to write into `/sys`.
fn mount_inside(
    root: &OwnedFd,
    mounts: &RootMounts,
    device_mounts: &dev::DeviceMounts,
    proc_tree: &OwnedFd,
    own_copy: Option<&SystemCopy>,
) -> Result<(), LaunchFailure> {
    mount::attach(&mounts.devices, root, c"dev").step("mount /dev")?;
    if own_copy.is_some() {
        bind_host_devices(root)?;
    }
    device_mounts.attach(root)?;
    if let Some(copy) = own_copy {
        const STEP: &str = "furnish /sys";
        populate_sys(&mounts.system, copy).step(STEP)?;
        mount::set_attributes(&mounts.system, c"", false, SYSTEM_ATTRIBUTES).step(STEP)?;
    }
    mount::attach(&mounts.system, root, c"sys").step("mount /sys")?;
    mount::attach(proc_tree, root, c"proc").step("mount /proc")
}

/// Waits for this message of the launcher; an error when the launcher has ended instead.
fn await_message(sync: &OwnedFd, message: &[u8]) -> Result<Vec<OwnedFd>, LaunchFailure> {
    let mut buffer = [0; 16];
    let (length, received) = fds::receive(sync, &mut buffer).step("hear from the launcher")?;
    if &buffer[..length] == message {
        Ok(received)
    } else {
        Err(wrong("hear from the launcher", "it has ended"))
    }
}

fn receive_mounts(
    mut received: Vec<OwnedFd>,
    request: &LaunchRequest,
) -> Result<RootMounts, LaunchFailure> {
    let (Some(system), Some(devices)) = (received.pop(), received.pop()) else {
        return Err(wrong("take the file systems", "some are missing"));
    };
    if received.len() != request.overlays.len() {
        return Err(wrong("take the file systems", "some are missing"));
    }
    Ok(RootMounts {
        overlays: received,
        devices,
        system,
    })
}

/// Without privilege over the host, the file systems are made here, where this process has it.
fn make_mounts(
    state: &LauncherState,
    request: &LaunchRequest,
    box_dir: &BoxDir,
) -> Result<RootMounts, LaunchFailure> {
    let builder = OverlayBuilder {
        box_dir,
        mapping: None,
        staging: LayerStaging {
            directory: "/tmp",
            namespaces: None,
            by_path: state.options.overlay_by_path,
        },
        unprivileged: true,
        used_mounts: &state.used_mounts,
    };
    let mut overlays = Vec::new();
    for (number, overlay) in request.overlays.iter().enumerate() {
        overlays.push(builder.build(number, overlay, &mut Vec::new())?);
    }
    Ok(RootMounts {
        overlays,
        devices: small_tree(Attributes::empty()).step("make /dev")?,
        system: small_tree(Attributes::MOUNT_ATTR_NODEV).step("make /sys")?,
    })
}

fn bind_host_devices(root: &OwnedFd) -> Result<(), LaunchFailure> {
    const STEP: &str = "furnish /dev";
    let tree = root::open_beneath(root, "dev").step(STEP)?;
    populate_dev(&tree).step(STEP)?;
    for name in device_names() {
        dev::bind_host_node(&tree, name).step(STEP)?;
    }
    mount::set_attributes(&tree, c"", false, Attributes::MOUNT_ATTR_RDONLY).step(STEP)
}
