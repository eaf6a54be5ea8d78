//! What the launcher prepares once, so that a launch finds it ready.
//!
//! With privilege it works in mount namespaces of its own, so nothing of it ever shows in the
//! host's mount table. Sandboxes are born in the *cradle*, a namespace with an empty file system
//! and a `/proc` in it and nothing else: they never had the host's mounts, and the kernel has
//! nothing to copy.

mod trees;

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

use crate::box_dir::spread_children;
use crate::control::LaunchFailure;
use crate::failure::{Step, wrong};
use crate::{ByPath, Options, degraded};

pub(crate) use trees::{
    EMPTY_DIRECTORY, Standing, Trees, device_names, furnish_devices, furnish_system, small_tree,
};

/// How many network namespaces wait for a sandbox. Each costs the kernel about 0.3 MiB.
const READY_NETWORKS: usize = 8;
/// Parents are few, one a server; a client of this process cannot make it remember more.
const MAX_PARENTS: usize = 16;

/// Everything prepared.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) options: Options,
    /// None when the launcher has one id to give and no right over mounts.
    pub(crate) privileged: Option<Privileged>,
    /// 0 when there is none, or none that is of use.
    pub(crate) landlock: u32,
    /// Of `/proc`, what this kernel has to hide.
    pub(crate) masks: crate::steps::proc::Masks,
    layout: Layout,
    /// By name, and whether groups with limits of input and output are made there.
    parents: BTreeMap<(String, bool), Parent>,
    /// The directory of boxes that has been told to spread them.
    spread: Option<PathBuf>,
    /// Detached mounts that have served. Closing one waits for every processor (the kernel's
    /// `synchronize_rcu_expedited`), so it is done after the answer, not before.
    pub(crate) spent: RefCell<Vec<OwnedFd>>,
}

/// What is prepared with privilege.
#[derive(Debug)]
pub(crate) struct Privileged {
    /// The launcher's own copy of the host's mounts.
    pub(crate) home: OwnedFd,
    /// Where sandboxes are born.
    pub(crate) cradle: OwnedFd,
    /// The host's network.
    pub(crate) home_network: OwnedFd,
    pub(crate) trees: Trees,
    /// Whether a file system that is mounted nowhere can be copied from, as since Linux 6.15.
    copies_detached: bool,
    networks: VecDeque<OwnedFd>,
}

impl Workshop {
    /// Prepares what can be prepared before the first request.
    pub(crate) fn open(options: Options) -> Result<Self, LaunchFailure> {
        let privileged = if is_privileged() {
            Some(Privileged::open()?)
        } else {
            None
        };
        // Built now, so that every sandbox inherits it ready.
        let _ = seccomp::filter();
        let version = landlock::version();
        Ok(Self {
            options,
            privileged,
            landlock: if version < landlock::FIRST_USABLE {
                0
            } else {
                version
            },
            masks: crate::steps::proc::Masks::of_this_kernel(),
            layout: Layout::detect(),
            parents: BTreeMap::new(),
            spent: RefCell::default(),
            spread: None,
        })
    }

    /// What no sandbox of this machine can have.
    pub(crate) fn degraded(&self) -> Vec<String> {
        let mut said = Vec::new();
        if self.privileged.is_none() {
            said.push(degraded::SINGLE_ID.to_owned());
        }
        if self.landlock == 0 {
            said.push(degraded::NO_LANDLOCK.to_owned());
        }
        said
    }

    /// In which hierarchies the machine counts: `v1`, `v2`, `hybrid`, `none`.
    pub(crate) fn cgroup_kind(&self) -> &'static str {
        self.layout.kind()
    }

    /// Sees to it that boxes beside this one do not crowd one region of the disk.
    pub(crate) fn spread_boxes(&mut self, box_dir: &Path) {
        let Some(boxes) = box_dir.parent() else {
            return;
        };
        if self.spread.as_deref() != Some(boxes) {
            spread_children(boxes);
            self.spread = Some(boxes.to_owned());
        }
    }

    /// Where the cgroups of sandboxes with this parent are made.
    pub(crate) fn parent(&mut self, relative: &str, io: bool) -> &Parent {
        let key = (relative.to_owned(), io);
        if self.parents.len() >= MAX_PARENTS && !self.parents.contains_key(&key) {
            self.parents.clear();
        }
        self.parents
            .entry(key)
            .or_insert_with(|| Parent::prepare(&self.layout, Path::new(relative), io))
    }

    /// Makes a sandbox's disk one that its layers can be copied from, until the answer is dropped.
    pub(crate) fn stand(&self, disk: &OwnedFd) -> Result<Option<Standing>, LaunchFailure> {
        const STEP: &str = "mount the sandbox's disk";
        match &self.privileged {
            Some(privileged)
                if privileged.copies_detached
                    && self.options.overlay_by_path == ByPath::WhereNeeded =>
            {
                Ok(None)
            }
            Some(_) => Trees::stand(disk).map(Some).step(STEP),
            None => Err(wrong(STEP, "that takes root")),
        }
    }

    /// Prepares one more network namespace; false when there are enough. For idle moments.
    pub(crate) fn refill(&mut self) -> bool {
        let Some(privileged) = &mut self.privileged else {
            return false;
        };
        if privileged.networks.len() >= READY_NETWORKS {
            return false;
        }
        match netns::create() {
            Ok(network) => {
                privileged.networks.push_back(network);
                true
            }
            // The launch that needs one tries again and reports it.
            Err(_) => false,
        }
    }
}

impl Privileged {
    fn open() -> Result<Self, LaunchFailure> {
        namespaces::leave(Kind::Mount).step("leave the host's mount namespace")?;
        // Mounts that the host makes later still arrive, nothing goes back.
        mount::set_propagation(Propagation::Slave).step("part from the host's mounts")?;
        let home = namespaces::current(Kind::Mount).step("open the own mount namespace")?;
        let home_network =
            namespaces::current(Kind::Network).step("open the host's network namespace")?;
        let cradle = make_cradle().step("prepare the cradle");
        namespaces::enter(&home).step("come back from the cradle")?;
        let cradle = cradle?;
        let trees = Trees::open().step("prepare /dev and /sys")?;
        Ok(Self {
            home,
            cradle,
            home_network,
            trees,
            copies_detached: copies_detached(),
            networks: VecDeque::new(),
        })
    }

    /// A network namespace with its loopback up.
    pub(crate) fn take_network(&mut self) -> Result<OwnedFd, LaunchFailure> {
        match self.networks.pop_front() {
            Some(network) => Ok(network),
            None => netns::create().step("make the network namespace"),
        }
    }
}

/// Makes a mount namespace with nothing in it but `/proc`, `/root` for the sandbox's root and
/// `/staging`, and stays in it.
fn make_cradle() -> Result<OwnedFd, Errno> {
    namespaces::leave(Kind::Mount)?;
    mount::set_propagation(Propagation::Private)?;
    let quiet = Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOSUID;
    let root = mount::filesystem("tmpfs", &[mount::Parameter::Text("size", "1m")], quiet)?;
    for place in ["proc", "root", "staging"] {
        rustix::fs::mkdirat(&root, place, Mode::from_raw_mode(0o755))?;
    }
    // Anywhere will do: the namespace is thrown away but for what is attached here.
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
