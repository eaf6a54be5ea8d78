//! The sandbox's root: its overlays are mounted into each other and become the process's root.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{chdir, fchdir, pivot_root};
use stacyvm_sys::mount::{self, Attributes};
use stacyvm_sys::resolve;

use crate::control::{LaunchFailure, LaunchRequest};
use crate::failure::{Step, wrong};

/// Mounts the first overlay at a path and the other ones inside it; answers the root.
pub(crate) fn mount_overlays(
    overlays: &[OwnedFd],
    request: &LaunchRequest,
    directory: impl AsFd,
    path: &CStr,
) -> Result<OwnedFd, LaunchFailure> {
    let (root, others) = overlays
        .split_first()
        .ok_or_else(|| wrong("mount the root", "there is none"))?;
    mount::attach(root, directory, path).step("mount the root")?;
    for (tree, spec) in others.iter().zip(&request.overlays[1..]) {
        let step = format!("mount {}", spec.target.display());
        let inside = spec
            .target
            .strip_prefix("/")
            .map_err(|_| wrong(&step, "it is not below the root"))?;
        let place = open_beneath(root, inside).step(&step)?;
        mount::attach(tree, &place, c"").step(&step)?;
    }
    root.try_clone().step("mount the root")
}

/// Makes every overlay read-only but for `/workspace` and `/tmp`, which get mounts of their own of
/// the same file system: the sandbox's mount table names no directory of the host for them.
pub(crate) fn make_read_only(root: &OwnedFd, request: &LaunchRequest) -> Result<(), LaunchFailure> {
    const STEP: &str = "make the root read-only";
    let writable: Vec<_> = [c"workspace", c"tmp"]
        .into_iter()
        .map(|place| Ok((mount::clone_tree(root, place, false)?, place)))
        .collect::<Result<_, Errno>>()
        .step(STEP)?;
    mount::set_attributes(root, c"", false, Attributes::MOUNT_ATTR_RDONLY).step(STEP)?;
    for spec in &request.overlays[1..] {
        let inside = spec.target.strip_prefix("/").unwrap_or(&spec.target);
        let place = open_beneath(root, inside).step(STEP)?;
        mount::set_attributes(&place, c"", false, Attributes::MOUNT_ATTR_RDONLY).step(STEP)?;
    }
    for (tree, place) in writable {
        mount::attach(&tree, root, place).step(STEP)?;
    }
    Ok(())
}

/// Opens a directory inside the root without following a link: images are not trusted.
pub(crate) fn open_beneath(
    root: &OwnedFd,
    path: impl rustix::path::Arg + Copy,
) -> Result<OwnedFd, Errno> {
    resolve::open(
        root,
        path,
        OFlags::PATH | OFlags::DIRECTORY,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Makes the root the root of the process and of its mount namespace.
pub(crate) fn enter(root: &OwnedFd) -> Result<(), LaunchFailure> {
    fchdir(root).step("enter the root")?;
    // With the same directory twice, the old root is mounted over the new one and detached there.
    pivot_root(".", ".").step("change the root")?;
    mount::detach(".").step("leave the old root")?;
    chdir("/").step("enter the root")
}
