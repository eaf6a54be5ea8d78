//! What the launcher prepares once, so that a launch finds it ready.
//!
//! With privilege the launcher works in mount namespaces of its own, so nothing of it ever shows in
//! the host's mount table. The first process of a sandbox is cloned in the *staging namespace*,
//! whose file system is empty but for a `/proc`: a sandbox never has the host's mounts, and the
//! kernel has no mounts to copy.

mod mount_templates;
mod system_copy;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use stacyvm_sys::caps::{self, Set};
use stacyvm_sys::cgroup::{Layout, Parent};
use stacyvm_sys::mount::{self, Attributes, Propagation};
use stacyvm_sys::namespaces::{self, Kind};
use stacyvm_sys::{landlock, netns, seccomp};

use crate::box_dir::set_topdir_flag;
use crate::control::LaunchFailure;
use crate::failure::{Step, wrong};
use crate::{ByPath, Options, degraded};

pub(crate) use mount_templates::{
    EMPTY_DIRECTORY, MountTemplates, SYSTEM_ATTRIBUTES, SystemMounts, TemporaryMount, device_names,
    populate_dev, populate_sys, small_tree,
};
pub(crate) use system_copy::SystemCopy;

/// How many network namespaces wait for a sandbox. Each costs the kernel about 0.3 MiB.
const READY_NETWORKS: usize = 8;
/// How many pairs of `/dev` and `/sys` wait for a sandbox.
const READY_MOUNTS: usize = 8;
/// Parents are few, one a server; a client of this process cannot make it remember more.
const MAX_PARENTS: usize = 16;

/// What one launcher has prepared for its launches.
#[derive(Debug)]
pub(crate) struct LauncherState {
    pub(crate) options: Options,
    /// None when the launcher has one id to give and no right over mounts.
    pub(crate) privileged: Option<PrivilegedState>,
    /// The version of Landlock that sandboxes are confined with; 0 without a usable one.
    pub(crate) landlock: u32,
    /// The files of `/proc` that are hidden from sandboxes and that this kernel has.
    pub(crate) masks: crate::steps::proc::Masks,
    /// What sandboxes see of `/sys`, where each has to write it for itself.
    pub(crate) system: SystemCopy,
    /// Whether the kernel has time namespaces. With the host's, a sandbox would share its file below
    /// `/proc/self/ns`.
    pub(crate) time_namespaces: bool,
    layout: Layout,
    /// Parent cgroups by name, and by whether groups with limits of input and output are made there.
    parents: BTreeMap<(String, bool), Parent>,
    /// The directory of boxes that has the flag of `set_topdir_flag`.
    topdir: Option<PathBuf>,
    /// Detached mounts that are no longer needed. Closing one waits for every processor (the kernel's
    /// `synchronize_rcu_expedited`), so it is done after the answer, not before.
    pub(crate) used_mounts: RefCell<Vec<OwnedFd>>,
}

/// What only a privileged launcher has.
#[derive(Debug)]
pub(crate) struct PrivilegedState {
    /// The launcher's own copy of the host's mounts.
    pub(crate) host_mounts: OwnedFd,
    /// The mount namespace in which the first process of a sandbox is cloned.
    pub(crate) staging: OwnedFd,
    /// The host's network namespace.
    pub(crate) host_network: OwnedFd,
    /// What `/dev` and `/sys` of sandboxes are made from.
    templates: MountTemplates,
    /// Whether a file system that is mounted nowhere can be copied from, as since Linux 6.15.
    copies_detached: bool,
    networks: VecDeque<OwnedFd>,
    mounts: RefCell<Vec<SystemMounts>>,
}

impl LauncherState {
    /// Prepares what can be prepared before the first request.
    pub(crate) fn open(options: Options) -> Result<Self, LaunchFailure> {
        let privileged = if is_privileged() {
            Some(PrivilegedState::open()?)
        } else {
            None
        };
        // Built now, so that every sandbox inherits it ready.
        let _ = seccomp::filter();
        let version = landlock::version();
        Ok(Self {
            options,
            landlock: if version < landlock::FIRST_USABLE {
                0
            } else {
                version
            },
            masks: crate::steps::proc::Masks::of_this_kernel(),
            system: if privileged.is_some() {
                SystemCopy::default()
            } else {
                SystemCopy::of_this_machine()
            },
            privileged,
            time_namespaces: Path::new("/proc/self/ns/time").exists(),
            layout: Layout::detect(),
            parents: BTreeMap::new(),
            used_mounts: RefCell::default(),
            topdir: None,
        })
    }

    /// What every sandbox of this machine goes without, one sentence each.
    pub(crate) fn degraded(&self) -> Vec<String> {
        let mut said = Vec::new();
        if self.privileged.is_none() {
            said.push(degraded::SINGLE_ID.to_owned());
            said.push(degraded::SHARED_NODES.to_owned());
        }
        if self.landlock == 0 {
            said.push(degraded::NO_LANDLOCK.to_owned());
        }
        said
    }

    /// The machine's kind of cgroup hierarchies: `v1`, `v2`, `hybrid`, `none`.
    pub(crate) fn cgroup_kind(&self) -> &'static str {
        self.layout.kind()
    }

    /// Keeps the boxes beside this one out of one region of the disk (see `set_topdir_flag`).
    pub(crate) fn separate_boxes(&mut self, box_dir: &Path) {
        let Some(boxes) = box_dir.parent() else {
            return;
        };
        if self.topdir.as_deref() != Some(boxes) {
            set_topdir_flag(boxes);
            self.topdir = Some(boxes.to_owned());
        }
    }

    /// The parent cgroup with this name, prepared at its first use.
    pub(crate) fn parent(&mut self, relative: &str, io: bool) -> &Parent {
        let key = (relative.to_owned(), io);
        if self.parents.len() >= MAX_PARENTS && !self.parents.contains_key(&key) {
            self.parents.clear();
        }
        self.parents
            .entry(key)
            .or_insert_with(|| Parent::prepare(&self.layout, Path::new(relative), io))
    }

    /// Mounts a sandbox's disk until the answer is dropped, where the kernel copies layers only from
    /// a mounted file system.
    pub(crate) fn mount_disk(
        &self,
        disk: &OwnedFd,
    ) -> Result<Option<TemporaryMount>, LaunchFailure> {
        const STEP: &str = "mount the sandbox's disk";
        match &self.privileged {
            Some(privileged)
                if privileged.copies_detached
                    && self.options.overlay_by_path == ByPath::WhereNeeded =>
            {
                Ok(None)
            }
            Some(_) => MountTemplates::mount_temporarily(disk).map(Some).step(STEP),
            None => Err(wrong(STEP, "that takes root")),
        }
    }

    /// Prepares one more thing while the launcher is idle; false when there is enough of everything.
    pub(crate) fn prepare_one(&mut self) -> bool {
        let Some(privileged) = &mut self.privileged else {
            return false;
        };
        // The launch that needs what could not be made tries again and reports it.
        privileged.prepare_network() || privileged.prepare_mounts()
    }
}

impl PrivilegedState {
    fn open() -> Result<Self, LaunchFailure> {
        namespaces::leave(Kind::Mount).step("leave the host's mount namespace")?;
        // Mounts that the host makes later still arrive, nothing goes back.
        mount::set_propagation(Propagation::Slave).step("part from the host's mounts")?;
        let host_mounts = namespaces::current(Kind::Mount).step("open the own mount namespace")?;
        let host_network =
            namespaces::current(Kind::Network).step("open the host's network namespace")?;
        let staging = make_staging().step("prepare the staging namespace");
        namespaces::enter(&host_mounts).step("leave the staging namespace")?;
        let staging = staging?;
        let templates = MountTemplates::open().step("prepare /dev and /sys")?;
        Ok(Self {
            host_mounts,
            staging,
            host_network,
            templates,
            copies_detached: copies_detached(),
            networks: VecDeque::new(),
            mounts: RefCell::default(),
        })
    }

    fn prepare_network(&mut self) -> bool {
        if self.networks.len() >= READY_NETWORKS {
            return false;
        }
        let made = netns::create();
        let could = made.is_ok();
        self.networks.extend(made);
        could
    }

    fn prepare_mounts(&mut self) -> bool {
        if self.mounts.get_mut().len() >= READY_MOUNTS {
            return false;
        }
        let made = self.templates.make();
        let could = made.is_ok();
        self.mounts.get_mut().extend(made);
        could
    }

    /// A `/dev` and a `/sys` that no other sandbox has.
    pub(crate) fn take_mounts(&self) -> Result<SystemMounts, LaunchFailure> {
        let ready = self.mounts.borrow_mut().pop();
        match ready {
            Some(mounts) => Ok(mounts),
            None => self.templates.make().step("make /dev and /sys"),
        }
    }

    /// A network namespace with its loopback up.
    pub(crate) fn take_network(&mut self) -> Result<OwnedFd, LaunchFailure> {
        match self.networks.pop_front() {
            Some(network) => Ok(network),
            None => netns::create().step("make the network namespace"),
        }
    }
}

/// Makes the staging namespace, with `/proc`, `/root` for the sandbox's root and `/staging` for
/// layers, and stays in it.
fn make_staging() -> Result<OwnedFd, Errno> {
    namespaces::leave(Kind::Mount)?;
    mount::set_propagation(Propagation::Private)?;
    let quiet = Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOSUID;
    let root = mount::filesystem("tmpfs", &[mount::Parameter::Text("size", "1m")], quiet)?;
    for place in ["proc", "root", "staging"] {
        rustix::fs::mkdirat(&root, place, Mode::from_raw_mode(0o755))?;
    }
    // Any directory will do: of this namespace only what is attached here is kept.
    mount::attach(&root, rustix::fs::CWD, c"/proc/fs")?;
    // A new `/proc` may be mounted inside a user namespace only where one can be seen whole.
    let proc = mount::filesystem("proc", &[], quiet | Attributes::MOUNT_ATTR_NOEXEC)?;
    mount::attach(&proc, &root, c"proc")?;
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    mount::detach(".")?;
    rustix::process::chdir("/")?;
    namespaces::current(Kind::Mount)
}

fn copies_detached() -> bool {
    small_tree(Attributes::empty())
        .and_then(|tree| mount::clone_tree(&tree, c"", false))
        .is_ok()
}

fn is_privileged() -> bool {
    let needed = Set::SYS_ADMIN
        | Set::SYS_CHROOT
        | Set::SETUID
        | Set::SETGID
        | Set::CHOWN
        | Set::FOWNER
        | Set::DAC_OVERRIDE
        | Set::MKNOD
        | Set::NET_ADMIN;
    namespaces::has_every_id() && caps::effective().is_ok_and(|held| held.contains(needed))
}
