//! Building one overlay file system, mounted nowhere yet.
//!
//! Layers are passed to the kernel as detached copies of their directories: in its mount table the
//! sandbox sees `/` and `/upper`, never a path of the host.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::MoveMountFlags;
use stacyvm_sys::mount::{self, Attributes, Parameter};
use stacyvm_sys::namespaces;

use crate::ByPath;
use crate::box_dir::BoxDir;
use crate::control::{LaunchFailure, OverlaySpec};
use crate::degraded::NO_ID_MAPPING;
use crate::failure::Step;

/// The longest text that fsconfig(2) takes, bytes.
const MAX_PARAMETER_LENGTH: usize = 255;

/// How layers are passed to kernels that take them by path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerStaging<'a> {
    /// The directory below which layers are mounted for that.
    pub(crate) directory: &'a str,
    /// The mount namespace that has the directory and the one to return to, when they differ.
    pub(crate) namespaces: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    /// When layers are passed by path.
    pub(crate) by_path: ByPath,
}

/// How overlays are built for one sandbox.
#[derive(Debug)]
pub(crate) struct OverlayBuilder<'a> {
    pub(crate) box_dir: &'a BoxDir,
    /// The user namespace whose ids the image's files get; none with a single id.
    pub(crate) mapping: Option<BorrowedFd<'a>>,
    /// For kernels before Linux 6.13, which take layers by path only.
    pub(crate) staging: LayerStaging<'a>,
    /// Whether the overlay is made inside the sandbox's own user namespace.
    pub(crate) unprivileged: bool,
    /// Takes the layers that the overlay has been made of: see `LauncherState::used_mounts`.
    pub(crate) used_mounts: &'a RefCell<Vec<OwnedFd>>,
}

impl OverlayBuilder<'_> {
    /// Builds the overlay with this number.
    pub(crate) fn build(
        &self,
        number: usize,
        spec: &OverlaySpec,
        degraded: &mut Vec<String>,
    ) -> Result<OwnedFd, LaunchFailure> {
        let at = |what: &str| format!("{what} of the overlay at {}", spec.target.display());
        let mut lowers = Vec::with_capacity(spec.lowers.len());
        for lower in &spec.lowers {
            let tree = mount::clone_path(lower).step(&at("open a layer"))?;
            if let Some(mapping) = self.mapping {
                match mount::map_ids(&tree, mapping) {
                    Ok(()) => {}
                    Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                        if !degraded.iter().any(|known| known == NO_ID_MAPPING) {
                            degraded.push(NO_ID_MAPPING.to_owned());
                        }
                    }
                    Err(errno) => return Err(errno).step(&at("map the ids of a layer")),
                }
            }
            lowers.push(tree);
        }
        if let Some(host) = &spec.of_host {
            // Not mapped: so its files keep owners of the host, and no id of a sandbox is one.
            lowers.push(mount::clone_path(host).step(&at("open the host's layer"))?);
        }
        let layer = self
            .box_dir
            .layer(number)
            .step(&at("open the writable layer"))?;
        let step = format!("mount the overlay at {}", spec.target.display());
        if self.staging.by_path == ByPath::WhereNeeded {
            match self.by_descriptor(&lowers, &layer) {
                // The answers of kernels that take no layers by descriptor (the last one before
                // Linux 6.5). For any other reason the attempt by path fails as well and reports it.
                Err(Errno::INVAL | Errno::BADF | Errno::OPNOTSUPP) => {}
                result => {
                    let mut used_mounts = self.used_mounts.borrow_mut();
                    used_mounts.append(&mut lowers);
                    used_mounts.push(layer);
                    return result.step(&step);
                }
            }
        }
        let Some((staging, own)) = self.staging.namespaces else {
            return self.by_path(&lowers, &layer).step(&step);
        };
        namespaces::enter(staging).step(&step)?;
        let made = self.by_path(&lowers, &layer);
        namespaces::enter(own).step(&step)?;
        made.step(&step)
    }

    fn by_descriptor(&self, lowers: &[OwnedFd], layer: &OwnedFd) -> Result<OwnedFd, Errno> {
        let open = |name: &str| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(layer, name, flags, Mode::empty())
        };
        let (upper, work) = (open("upper")?, open("work")?);
        let mut parameters: Vec<Parameter<'_>> = lowers
            .iter()
            .map(|lower| Parameter::File("lowerdir+", lower.as_fd()))
            .collect();
        parameters.push(Parameter::File("upperdir", upper.as_fd()));
        parameters.push(Parameter::File("workdir", work.as_fd()));
        self.mount(parameters)
    }

    /// Mounts the layers below the staging directory, makes the overlay of their paths, and unmounts
    /// them again.
    fn by_path(&self, lowers: &[OwnedFd], layer: &OwnedFd) -> Result<OwnedFd, Errno> {
        let staging = self.staging.directory;
        let scratch = mount::filesystem("tmpfs", &[], Attributes::empty())?;
        mount::attach(&scratch, CWD, staging)?;
        let made = (|| {
            let mut names = Vec::with_capacity(lowers.len());
            for (number, tree) in lowers.iter().enumerate() {
                let place = format!("{staging}/{number}");
                attach_new(tree, &place)?;
                names.push(place);
            }
            let place = format!("{staging}/layer");
            attach_new(layer, &place)?;
            let (upper, work) = (format!("{place}/upper"), format!("{place}/work"));
            self.mount_named(&names, &upper, &work)
        })();
        mount::detach(staging)?;
        made
    }

    /// Names the layers in one parameter, when there are few; else each in one of its own, which
    /// kernels know since Linux 6.7; else in the one text that mount(2) takes, which may be longer
    /// than a parameter.
    fn mount_named(&self, lowers: &[String], upper: &str, work: &str) -> Result<OwnedFd, Errno> {
        let joined = lowers.join(":");
        let places = [
            Parameter::Text("upperdir", upper),
            Parameter::Text("workdir", work),
        ];
        let at_once = self.staging.by_path == ByPath::AtOnce;
        if joined.len() <= MAX_PARAMETER_LENGTH && !at_once {
            let lower = Parameter::Text("lowerdir", &joined);
            return self.mount([&[lower], places.as_slice()].concat());
        }
        if !at_once {
            let one = |place| Parameter::Text("lowerdir+", place);
            let mut parameters: Vec<_> = lowers.iter().map(String::as_str).map(one).collect();
            parameters.extend(places);
            match self.mount(parameters) {
                // The parameter is not known.
                Err(Errno::INVAL) => {}
                result => return result,
            }
        }
        let place = format!("{}/made", self.staging.directory);
        rustix::fs::mkdir(&place, Mode::from_raw_mode(0o755))?;
        let own = if self.unprivileged { ",userxattr" } else { "" };
        let options = format!("lowerdir={joined},upperdir={upper},workdir={work},volatile{own}");
        mount::at_once("overlay", &place, &options)
    }

    fn mount(&self, mut parameters: Vec<Parameter<'_>>) -> Result<OwnedFd, Errno> {
        // A sandbox's files end with it: flushing them to disk would only make others wait.
        parameters.push(Parameter::Flag("volatile"));
        if self.unprivileged {
            parameters.push(Parameter::Flag("userxattr"));
        }
        let attributes = Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOSUID;
        mount::filesystem("overlay", &parameters, attributes)
    }
}

/// Makes the directory `place` and mounts the tree there.
fn attach_new(tree: &OwnedFd, place: &str) -> Result<(), Errno> {
    rustix::fs::mkdir(place, Mode::from_raw_mode(0o755))?;
    rustix::mount::move_mount(
        tree,
        c"",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}
