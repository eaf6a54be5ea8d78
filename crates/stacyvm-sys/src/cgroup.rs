//! Control groups: one group per sandbox in every hierarchy that counts or limits something.
//!
//! Machines differ: version 1 (a hierarchy per controller), version 2 (one for all), or both side
//! by side. Callers see one [`Group`] whichever it is. Its non-obvious rule: a process joins by
//! itself, by writing `0` through descriptors that its parent opened (or is born inside, version
//! 2), because moving another process waits for a grace period of the whole kernel.

mod end;
mod layout;
mod usage;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, mkdirat, openat, unlinkat};
use rustix::io::{Errno, Result};

pub use end::{kill, remove};
pub use layout::Layout;
pub use usage::{Refusals, Usage, refusals, usage};

/// The controllers that can limit a sandbox, by their names of version 2.
pub(crate) const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];
/// How many of them, from the first, limit every sandbox. The others are used only on request: each
/// hierarchy of version 1 makes every launch a little longer.
pub(crate) const ALWAYS_LIMITED: usize = 3;

/// The limits of a group.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory and swap together, bytes.
    pub memory_bytes: u64,
    /// CPU time in hundredths of a core.
    pub cpu_hundredths: u32,
    /// Number of processes and threads.
    pub pids: u32,
    /// Limits of input and output on one device.
    pub io: Option<IoLimits>,
}

/// How fast a group may read from and write to one device; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoLimits {
    /// Major and minor number of the whole device, not of a part of it.
    pub device: (u32, u32),
    /// Bytes read per second.
    pub read_bps: u64,
    /// Bytes written per second.
    pub write_bps: u64,
    /// Read operations per second.
    pub read_iops: u64,
    /// Write operations per second.
    pub write_iops: u64,
}

/// The period of CPU quotas, microseconds; the kernel's default.
const CPU_PERIOD: u64 = 100_000;

impl Limits {
    /// CPU time in each [`CPU_PERIOD`], microseconds.
    pub(crate) fn cpu_quota(&self) -> u64 {
        CPU_PERIOD / 100 * u64::from(self.cpu_hundredths)
    }
}

/// An operation on a group that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct GroupError {
    /// The step that failed, as a text for a person.
    pub step: &'static str,
    /// The kernel's error number.
    #[source]
    pub errno: Errno,
}

pub(crate) trait Step<T> {
    fn step(self, step: &'static str) -> std::result::Result<T, GroupError>;
}

impl<T> Step<T> for Result<T> {
    fn step(self, step: &'static str) -> std::result::Result<T, GroupError> {
        self.map_err(|errno| GroupError { step, errno })
    }
}

/// The directory of one hierarchy under which groups are made.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    pub(crate) path: PathBuf,
    pub(crate) directory: OwnedFd,
    /// The [`CONTROLLERS`] that it has.
    pub(crate) controllers: Vec<&'static str>,
    /// The keys under which the group's directory is reported.
    pub(crate) names: Vec<&'static str>,
    pub(crate) unified: bool,
    /// Whether swap can be limited here.
    pub(crate) swap: bool,
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }
}

/// The directories in which groups are made. It is prepared once and used for every sandbox.
#[derive(Debug)]
pub struct Parent {
    hierarchies: Vec<Hierarchy>,
    degraded: Vec<String>,
}

impl Parent {
    /// Makes or finds `relative` (such as `stacyvm/main`) in every hierarchy that is of use; `io`
    /// tells whether groups with limits of input and output will be made. A missing controller is no
    /// error; [`Parent::degraded`] reports it.
    #[must_use]
    pub fn prepare(layout: &Layout, relative: &Path, io: bool) -> Self {
        let wanted = &CONTROLLERS[..if io {
            CONTROLLERS.len()
        } else {
            ALWAYS_LIMITED
        }];
        let mut hierarchies = v1::prepare(layout, relative, wanted);
        hierarchies.extend(v2::prepare(layout, relative, wanted));
        let degraded = degradations(&hierarchies, wanted);
        Self {
            hierarchies,
            degraded,
        }
    }

    /// The limits that this machine lacks, one sentence each.
    #[must_use]
    pub fn degraded(&self) -> &[String] {
        &self.degraded
    }

    /// Makes an empty group with its limits set. An empty group of that name from before is replaced.
    ///
    /// # Errors
    /// The step that failed; the group is removed then.
    pub fn create(&self, name: &str, limits: &Limits) -> std::result::Result<Group, GroupError> {
        let mut group = Group::default();
        for hierarchy in &self.hierarchies {
            if let Err(error) = add(hierarchy, name, limits, &mut group) {
                group.abandon();
                return Err(error);
            }
        }
        Ok(group)
    }
}

/// Makes the group in one more hierarchy.
fn add(
    hierarchy: &Hierarchy,
    name: &str,
    limits: &Limits,
    group: &mut Group,
) -> std::result::Result<(), GroupError> {
    make_directory(hierarchy, name).step("make the cgroup")?;
    for key in &hierarchy.names {
        let directory = hierarchy.path.join(name);
        group.directories.insert((*key).to_owned(), directory);
    }
    if hierarchy.unified {
        v2::fill(hierarchy, name, limits, group)
    } else {
        v1::fill(hierarchy, name, limits, group)
    }
}

fn make_directory(hierarchy: &Hierarchy, name: &str) -> Result<()> {
    let make = || mkdirat(&hierarchy.directory, name, Mode::from_raw_mode(0o755));
    match make() {
        Err(Errno::EXIST) => {
            unlinkat(&hierarchy.directory, name, AtFlags::REMOVEDIR)?;
            make()
        }
        result => result,
    }
}

fn degradations(hierarchies: &[Hierarchy], wanted: &[&str]) -> Vec<String> {
    let mut sentences = Vec::new();
    for (controller, what) in [
        ("memory", "memory"),
        ("pids", "the number of processes"),
        ("cpu", "processor time"),
        ("io", "the speed of input and output"),
    ] {
        if wanted.contains(&controller) && !hierarchies.iter().any(|one| one.has(controller)) {
            sentences.push(format!(
                "{what} is not limited: the {controller} cgroup controller is missing or not \
                 delegated; run as root, or give the service `Delegate=yes` in systemd"
            ));
        }
    }
    let swap_limited = hierarchies.iter().any(|one| one.has("memory") && one.swap);
    let memory_limited = hierarchies.iter().any(|one| one.has("memory"));
    if memory_limited && !swap_limited && machine_has_swap() {
        sentences.push(
            "swap is not limited: the kernel does not account for it; boot with swapaccount=1 \
             or turn swap off"
                .to_owned(),
        );
    }
    sentences
}

fn machine_has_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

/// One sandbox's group, made and waiting for its first process.
#[derive(Debug, Default)]
pub struct Group {
    /// Its directories, by controller (`memory`, `pids`, `cpu`, `io`, `freezer`, `unified`,
    /// `systemd`).
    pub directories: BTreeMap<String, PathBuf>,
    pub(crate) join: Vec<OwnedFd>,
    pub(crate) into: Option<OwnedFd>,
    pub(crate) memory_events: Option<OwnedFd>,
}

impl Group {
    /// The version 2 directory in which the first process is cloned.
    #[must_use]
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.into.as_ref().map(AsFd::as_fd)
    }

    /// Moves the calling process into the group, in the hierarchies in which it was not cloned.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn join(&self) -> Result<()> {
        for tasks in &self.join {
            rustix::io::write(tasks, b"0")?;
        }
        Ok(())
    }

    /// Takes the read-only file with a line `oom_kill N`, which can be read repeatedly from its start.
    pub fn take_memory_events(&mut self) -> Option<OwnedFd> {
        self.memory_events.take()
    }

    /// Removes the group if no process has joined it.
    pub fn abandon(self) {
        for directory in self.directories.values() {
            let _ = rustix::fs::rmdir(directory);
        }
    }
}

/// Opens a file of a group, named relative to its hierarchy's directory.
pub(crate) fn open_in(
    hierarchy: &Hierarchy,
    name: &str,
    file: &str,
    flags: OFlags,
) -> Result<OwnedFd> {
    openat(
        &hierarchy.directory,
        format!("{name}/{file}"),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Sets one limit of a group.
pub(crate) fn set_in(hierarchy: &Hierarchy, name: &str, file: &str, value: &str) -> Result<()> {
    let file = open_in(hierarchy, name, file, OFlags::WRONLY)?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

/// Makes a directory and its parents below an existing one, and opens it.
pub(crate) fn open_parent(base: &Path, relative: &Path) -> Result<(PathBuf, OwnedFd)> {
    let mut path = base.to_path_buf();
    for component in relative.components() {
        path.push(component);
        match mkdirat(CWD, &path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    let directory = openat(
        CWD,
        &path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // Fails now if permissions or a read-only mount would fail the first sandbox.
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    accessat(&directory, ".", wanted, AtFlags::EACCESS)?;
    Ok((path, directory))
}
