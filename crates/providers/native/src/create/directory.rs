//! The second stage of a create: the box's directory with its record, its disk, the agent's socket
//! and the status pipe.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use stacyvm_launcher::control::Limits;
use stacyvm_provider::{BoxSpec, ProviderError, bind_unix};

use super::status::StatusPipe;
use crate::disk::{Disk, Disks};
use crate::exec_defaults;
use crate::images::{BaseImage, ImageResolver};
use crate::layout::AGENT_SOCKET;
use crate::meta::{self, META_VERSION, Meta};
use crate::network::{AllocatedNetwork, Lease};
use crate::users::User;

/// What is on disk and open before the launch.
pub(super) struct PreparedDirectory {
    pub(super) image: BaseImage,
    pub(super) user: User,
    /// What limits the disk, where something does.
    pub(super) disk: Option<Disk>,
    /// Whether the box's layers are on a file system of their own.
    pub(super) has_own_file_system: bool,
    pub(super) status: StatusPipe,
    /// The descriptors that go with the launch request, in its order.
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Makes the directory and all that is in it. Blocks. After a failure only the directory may be
/// left.
pub(super) fn prepare(
    images: &ImageResolver,
    disks: &Disks,
    dir: &Path,
    slot: u32,
    spec: &BoxSpec,
    limits: Limits,
    network: Option<AllocatedNetwork>,
) -> Result<PreparedDirectory, ProviderError> {
    let image = images.find(&spec.image)?;
    let user = exec_defaults::user(spec, image.config(), &image.rootfs)?;
    rustix::fs::mkdir(dir, rustix::fs::Mode::RWXU).map_err(|error| failed(error.into()))?;
    let made = spec
        .disk_mb
        .map(|mb| disks.make(dir, slot, mb))
        .transpose()?;
    let disk = made.as_ref().map(|made| made.disk);
    let lease = network.as_ref().map(|network| network.lease.clone());
    let meta = record(spec, slot, limits, &image, user, disk, lease);
    let (listener, status, status_end) = write_and_open(dir, &meta).map_err(|error| {
        if let Some(disk) = disk {
            disks.release(disk);
        }
        failed(error)
    })?;
    let root = made.and_then(|made| made.root);
    let has_own_file_system = root.is_some();
    let mut descriptors = vec![listener, status_end];
    descriptors.extend(network.map(|network| network.namespace));
    descriptors.extend(root);
    Ok(PreparedDirectory {
        image,
        user,
        disk,
        has_own_file_system,
        status: StatusPipe::new(status),
        descriptors,
    })
}

fn record(
    spec: &BoxSpec,
    slot: u32,
    limits: Limits,
    image: &BaseImage,
    user: User,
    disk: Option<Disk>,
    network: Option<Lease>,
) -> Meta {
    Meta {
        version: META_VERSION,
        id: spec.id.clone(),
        image: spec.image.clone(),
        image_root: image.image_root(),
        host_view: image.host_view.clone(),
        slot,
        uid: user.uid,
        gid: user.gid,
        limits,
        disk,
        created: meta::now(),
        network,
    }
}

/// Writes the record, and opens the agent's listening socket and both ends of the status pipe.
fn write_and_open(dir: &Path, meta: &Meta) -> io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
    meta::write(dir, meta)?;
    let listener = bind_unix(&dir.join(AGENT_SOCKET))?;
    listener.set_nonblocking(true)?;
    let (status, status_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((listener.into(), status, status_end))
}

fn failed(error: io::Error) -> ProviderError {
    ProviderError::backend(
        "prepare the sandbox's directory",
        error.kind().to_string(),
        error,
    )
}
