//! Building one overlay file system, mounted nowhere yet.
//!
//! Layers are handed over as detached copies of their directories: what the sandbox later sees of
//! them in its mount table is `/` and `/upper`, never a path of the host.

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
use crate::degraded;
use crate::failure::Step;

/// What fsconfig(2) takes as a text, bytes.
const LONGEST_PARAMETER: usize = 255;

/// How layers are named to the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Staging<'a> {
    /// A directory over which layers stand for a moment.
    pub(crate) place: &'a str,
    /// The mount namespace that has it and the one to come back to, when it is another one.
    pub(crate) visit: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    /// Whether descriptors are not even tried.
    pub(crate) always: ByPath,
}

/// How overlays are built for one sandbox.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    pub(crate) box_dir: &'a BoxDir,
    /// Gives files of the image their owners inside; none with a single id.
    pub(crate) mapping: Option<BorrowedFd<'a>>,
    /// For kernels before Linux 6.13, which take layers by path only.
    pub(crate) staging: Staging<'a>,
    /// Made inside the sandbox's own user namespace.
    pub(crate) unprivileged: bool,
    /// Where layers go that the overlay has taken: see `Workshop::spent`.
    pub(crate) spent: &'a RefCell<Vec<OwnedFd>>,
}

impl Builder<'_> {
    /// Builds the overlay with this number.
    pub(crate) fn build(
        &self,
        number: usize,
        spec: &OverlaySpec,
        missing: &mut Vec<String>,
    ) -> Result<OwnedFd, LaunchFailure> {
        let at = |what: &str| format!("{what} of the overlay at {}", spec.target.display());
        let mut lowers = Vec::with_capacity(spec.lowers.len());
        for lower in &spec.lowers {
            let tree = mount::clone_path(lower).step(&at("open a layer"))?;
            if let Some(mapping) = self.mapping {
                match mount::map_ids(&tree, mapping) {
                    Ok(()) => {}
                    Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                        if !missing.iter().any(|said| said == degraded::NO_ID_MAPPING) {
                            missing.push(degraded::NO_ID_MAPPING.to_owned());
                        }
                    }
                    Err(errno) => return Err(errno).step(&at("map the ids of a layer")),
                }
            }
            lowers.push(tree);
        }
        let layer = self
            .box_dir
            .layer(number)
            .step(&at("open the writable layer"))?;
        let step = format!("mount the overlay at {}", spec.target.display());
        if self.staging.always == ByPath::WhereNeeded {
            match self.by_descriptor(&lowers, &layer) {
                // What kernels say that do not know layers by descriptor (the last one, those before
                // Linux 6.5); when the reason is another one, the second way says it again.
                Err(Errno::INVAL | Errno::BADF | Errno::OPNOTSUPP) => {}
                result => {
                    let mut spent = self.spent.borrow_mut();
                    spent.append(&mut lowers);
                    spent.push(layer);
                    return result.step(&step);
                }
            }
        }
        let Some((there, back)) = self.staging.visit else {
            return self.by_path(&lowers, &layer).step(&step);
        };
        namespaces::enter(there).step(&step)?;
        let made = self.by_path(&lowers, &layer);
        namespaces::enter(back).step(&step)?;
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

    /// Puts the layers into place, names them, and takes them away again.
    fn by_path(&self, lowers: &[OwnedFd], layer: &OwnedFd) -> Result<OwnedFd, Errno> {
        let staging = self.staging.place;
        let scratch = mount::filesystem("tmpfs", &[], Attributes::empty())?;
        mount::attach(&scratch, CWD, staging)?;
        let made = (|| {
            let mut names = Vec::with_capacity(lowers.len());
            for (number, tree) in lowers.iter().enumerate() {
                let place = format!("{staging}/{number}");
                put(tree, &place)?;
                names.push(place);
            }
            let place = format!("{staging}/layer");
            put(layer, &place)?;
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
        let at_once = self.staging.always == ByPath::AtOnce;
        if joined.len() <= LONGEST_PARAMETER && !at_once {
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
        let place = format!("{}/made", self.staging.place);
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

fn put(tree: &OwnedFd, place: &str) -> Result<(), Errno> {
    rustix::fs::mkdir(place, Mode::from_raw_mode(0o755))?;
    rustix::mount::move_mount(
        tree,
        c"",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}
