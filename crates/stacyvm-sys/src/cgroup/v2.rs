//! Version 2: one hierarchy, whose controllers a parent hands down to its children.
//!
//! A group other than the root enables controllers for its children only while it has no process
//! itself. Where this process may write only its own group (a delegated one), every process of that
//! group moves into a child group first.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use super::layout::HierarchyMount;
use super::{
    CPU_PERIOD, Group, GroupError, Hierarchy, IoLimits, Layout, Limits, Step, open_in, open_parent,
    set_in,
};

/// The child group that the processes of a delegated group move into.
const LEAF: &str = "stacyvm-server";

pub(super) fn prepare(
    layout: &Layout,
    relative: &Path,
    controllers: &[&'static str],
) -> Option<Hierarchy> {
    let mounted = layout.unified.as_ref()?;
    prepare_at(&mounted.mount, mounted, relative, controllers)
        .or_else(|_| prepare_at(&delegated_root(mounted), mounted, relative, controllers))
        .ok()
}

/// The process's own group, or its parent if an earlier start moved the process into the leaf.
fn delegated_root(mounted: &HierarchyMount) -> PathBuf {
    match mounted.own.parent() {
        Some(above) if mounted.own.ends_with(LEAF) => above.to_path_buf(),
        _ => mounted.own.clone(),
    }
}

fn prepare_at(
    base: &Path,
    mounted: &HierarchyMount,
    relative: &Path,
    controllers: &[&'static str],
) -> Result<Hierarchy> {
    // A controller that stands on version 1 is not offered here.
    let offered = controllers_of(base);
    let wanted: Vec<&'static str> = controllers
        .iter()
        .copied()
        .filter(|controller| offered.iter().any(|one| one == controller))
        .collect();
    if !wanted.is_empty() {
        hand_down(base, base == delegated_root(mounted), &wanted)?;
    }
    let (path, directory) = open_parent(base, relative)?;
    let mut step = base.to_path_buf();
    for component in relative.components() {
        step.push(component);
        if !wanted.is_empty() {
            hand_down(&step, false, &wanted)?;
        }
    }
    let swap = wanted.contains(&"memory") && swap_is_accounted(&path);
    Ok(Hierarchy {
        path,
        directory,
        controllers: wanted,
        names: vec!["unified"],
        unified: true,
        swap,
    })
}

fn controllers_of(group: &Path) -> Vec<String> {
    fs::read_to_string(group.join("cgroup.controllers"))
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect()
}

fn hand_down(group: &Path, may_move: bool, controllers: &[&str]) -> Result<()> {
    let words: Vec<String> = controllers.iter().map(|one| format!("+{one}")).collect();
    let enable = || write(&group.join("cgroup.subtree_control"), &words.join(" "));
    match enable() {
        Err(Errno::BUSY) if may_move => {
            make_room(group)?;
            enable()
        }
        result => result,
    }
}

/// Moves every process of a group into the leaf, in a few rounds, because new ones may appear.
fn make_room(group: &Path) -> Result<()> {
    let leaf = group.join(LEAF);
    match rustix::fs::mkdir(&leaf, rustix::fs::Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    for _ in 0..8 {
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        if members.trim().is_empty() {
            break;
        }
        for member in members.split_ascii_whitespace() {
            match write(&leaf.join("cgroup.procs"), member) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn swap_is_accounted(parent: &Path) -> bool {
    parent.join("memory.swap.max").exists()
}

pub(super) fn fill(
    hierarchy: &Hierarchy,
    name: &str,
    limits: &Limits,
    group: &mut Group,
) -> std::result::Result<(), GroupError> {
    let set = |file: &str, value: String| set_in(hierarchy, name, file, &value);
    if hierarchy.has("memory") {
        set("memory.max", limits.memory_bytes.to_string()).step("limit memory")?;
        if hierarchy.swap {
            // The limit is for both together, so none is left for swap alone.
            set("memory.swap.max", "0".to_owned()).step("limit swap")?;
        }
        group.memory_events =
            Some(open_in(hierarchy, name, "memory.events", OFlags::RDONLY).step("watch memory")?);
    }
    if hierarchy.has("pids") {
        set("pids.max", limits.pids.to_string()).step("limit processes")?;
    }
    if hierarchy.has("cpu") {
        let quota = limits.cpu_quota();
        set("cpu.max", format!("{quota} {CPU_PERIOD}")).step("limit processor time")?;
    }
    if let (true, Some(io)) = (hierarchy.has("io"), &limits.io) {
        set("io.max", io_max(io)).step("limit input and output")?;
    }
    let directory =
        open_in(hierarchy, name, ".", OFlags::PATH | OFlags::DIRECTORY).step("open the cgroup")?;
    group.into = Some(directory);
    Ok(())
}

/// The line that `io.max` takes, see the kernel's cgroup-v2 documentation.
fn io_max(io: &IoLimits) -> String {
    let (major, minor) = io.device;
    let mut line = format!("{major}:{minor}");
    for (key, value) in [
        ("rbps", io.read_bps),
        ("wbps", io.write_bps),
        ("riops", io.read_iops),
        ("wiops", io.write_iops),
    ] {
        if value > 0 {
            line.push_str(&format!(" {key}={value}"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_limited_is_not_in_the_line() {
        let mut io = IoLimits {
            device: (8, 16),
            read_bps: 1_000_000,
            write_bps: 0,
            read_iops: 0,
            write_iops: 50,
        };
        assert_eq!(io_max(&io), "8:16 rbps=1000000 wiops=50");
        io.read_iops = 7;
        assert_eq!(io_max(&io), "8:16 rbps=1000000 riops=7 wiops=50");
    }
}
