//! One launch, as the sandbox's first process sees it.
//!
//! It runs in a copy of the launcher and takes every step on itself. Nothing is kept of the
//! launcher in the end: descriptors are closed, names overwritten, and what it goes on as cannot
//! come back.

use std::convert::Infallible;
use std::os::fd::OwnedFd;

use rustix::io::{Errno, dup};
use stacyvm_sys::cgroup::Group;
use stacyvm_sys::mount::{Attributes, Propagation};
use stacyvm_sys::{fds, mount, netns, process};

use crate::box_dir::BoxDir;
use crate::control::{LaunchFailure, LaunchRequest};
use crate::failure::{Step, refused, wrong};
use crate::overlay::{Builder, Staging};
use crate::steps::{confine, dev, identity, proc, root};
use crate::workshop::{Workshop, device_names, furnish_devices, furnish_system, small_tree};

/// The launcher says: the ids are there.
pub(crate) const MAPPED: &[u8] = b"mapped";
/// The launcher says: it is recorded, go on; the mounts come beside it.
pub(crate) const GO: &[u8] = b"go";

/// What the first process was given at birth.
#[derive(Debug)]
pub(crate) struct Born {
    pub(crate) sync: OwnedFd,
    pub(crate) status: OwnedFd,
    pub(crate) listener: OwnedFd,
    pub(crate) group: Group,
}

/// Sets the sandbox up and goes on as its body.
pub(crate) fn run(born: Born, workshop: &Workshop, request: &LaunchRequest) -> ! {
    let Ok((status, sync)) = dup(&born.status).and_then(|status| Ok((status, dup(&born.sync)?)))
    else {
        process::exit_now(1)
    };
    match set_up(born, workshop, request) {
        Err(failure) => confine::report(&status, &failure, Some(&sync)),
    }
    process::exit_now(1)
}

/// File systems that the sandbox's root is put together from.
struct Parts {
    overlays: Vec<OwnedFd>,
    devices: OwnedFd,
    system: OwnedFd,
}

fn set_up(
    mut born: Born,
    workshop: &Workshop,
    request: &LaunchRequest,
) -> Result<Infallible, LaunchFailure> {
    identity::part_from_launcher()?;
    await_word(&born.sync, MAPPED)?;
    let privileged = workshop.privileged.is_some();
    if privileged {
        identity::become_root()?;
    }
    born.group.join().step("join the cgroups")?;
    identity::settle(&request.id)?;
    // Everything that needs no answer is made while the launcher prepares the layers.
    if !privileged {
        mount::set_propagation(Propagation::Private).step("part from the host's mounts")?;
        netns::loopback_up().step("bring the loopback up")?;
        netns::open_low_ports();
    }
    let proc_tree = proc::make()?;
    let device_mounts = dev::make(privileged, request.limits.memory_bytes)?;
    let received = await_word(&born.sync, GO)?;
    let (parts, root) = if privileged {
        let parts = take_parts(received, request)?;
        let root = root::place(&parts.overlays, request, rustix::fs::CWD, c"/root")?;
        (parts, root)
    } else {
        // Opened again: the launcher's descriptor leads to the launcher's mounts, and these are
        // this process's own.
        let box_dir = BoxDir::open(&request.box_dir, None, None)?;
        let parts = make_parts(workshop, request, &box_dir)?;
        let root = root::place(&parts.overlays, request, &box_dir, c"")?;
        (parts, root)
    };
    if request.read_only_rootfs {
        root::make_read_only(&root, request)?;
    }
    mount::attach(&parts.devices, &root, c"dev").step("mount /dev")?;
    if !privileged {
        bind_host_devices(&root)?;
    }
    device_mounts.attach(&root)?;
    mount::attach(&parts.system, &root, c"sys").step("mount /sys")?;
    if !privileged {
        furnish_unprivileged_system(&root)?;
    }
    mount::attach(&proc_tree, &root, c"proc").step("mount /proc")?;
    root::enter(&root)?;
    workshop.masks.apply()?;

    confine::quiet_standard_streams()?;
    let memory_events = born.group.take_memory_events();
    confine::go_on(
        confine::Kept {
            status: born.status,
            listener: born.listener,
            memory_events,
        },
        confine::Manner {
            uid: request.uid,
            gid: request.gid,
            open_files: request.limits.open_files,
            change_ids: privileged,
            landlock: workshop.landlock,
            body: workshop.options.body,
        },
    )
}

/// Waits for one word of the launcher. When it dies instead, so does this process.
fn await_word(sync: &OwnedFd, word: &[u8]) -> Result<Vec<OwnedFd>, LaunchFailure> {
    let mut buffer = [0; 16];
    let (length, received) = fds::receive(sync, &mut buffer).step("hear from the launcher")?;
    if &buffer[..length] == word {
        Ok(received)
    } else {
        Err(wrong("hear from the launcher", "it has ended"))
    }
}

fn take_parts(mut received: Vec<OwnedFd>, request: &LaunchRequest) -> Result<Parts, LaunchFailure> {
    let (Some(system), Some(devices)) = (received.pop(), received.pop()) else {
        return Err(wrong("take the file systems", "some are missing"));
    };
    if received.len() != request.overlays.len() {
        return Err(wrong("take the file systems", "some are missing"));
    }
    Ok(Parts {
        overlays: received,
        devices,
        system,
    })
}

/// Without privilege over the host, the file systems are made here, where this process has it.
fn make_parts(
    workshop: &Workshop,
    request: &LaunchRequest,
    box_dir: &BoxDir,
) -> Result<Parts, LaunchFailure> {
    let builder = Builder {
        box_dir,
        mapping: None,
        staging: Staging {
            place: "/tmp",
            visit: None,
            always: workshop.options.overlay_by_path,
        },
        unprivileged: true,
        spent: &workshop.spent,
    };
    let mut overlays = Vec::new();
    for (number, overlay) in request.overlays.iter().enumerate() {
        overlays.push(builder.build(number, overlay, &mut Vec::new())?);
    }
    Ok(Parts {
        overlays,
        devices: small_tree(Attributes::empty()).step("make /dev")?,
        system: small_tree(Attributes::MOUNT_ATTR_NODEV).step("make /sys")?,
    })
}

fn bind_host_devices(root: &OwnedFd) -> Result<(), LaunchFailure> {
    const STEP: &str = "furnish /dev";
    let tree = root::open_beneath(root, "dev").step(STEP)?;
    furnish_devices(&tree).step(STEP)?;
    for name in device_names() {
        dev::bind_host_node(&tree, name).step(STEP)?;
    }
    mount::set_attributes(&tree, c"", false, Attributes::MOUNT_ATTR_RDONLY).step(STEP)
}

fn furnish_unprivileged_system(root: &OwnedFd) -> Result<(), LaunchFailure> {
    let tree = root::open_beneath(root, "sys").step("furnish /sys")?;
    furnish_system(&tree)
        .or_else(|errno| match errno {
            // The host may have mounts below what is copied, which are not ours to uncover.
            Errno::INVAL | Errno::PERM => Ok(()),
            other => Err(other),
        })
        .map_err(|errno| refused("furnish /sys", errno))
}
