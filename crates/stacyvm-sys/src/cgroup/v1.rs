//! Version 1: a hierarchy for each controller, or for a few that are mounted together.

use std::path::Path;

use rustix::fs::OFlags;

use super::{
    CONTROLLERS, Group, GroupError, Hierarchy, Layout, Limits, Step, open_in, open_parent, set_in,
};

pub(super) fn prepare(
    layout: &Layout,
    relative: &Path,
    controllers: &[&'static str],
) -> Vec<Hierarchy> {
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    let own_name = |name| if name == "io" { "blkio" } else { name };
    let mut wanted: Vec<(&str, &'static str)> = controllers
        .iter()
        .map(|name| (own_name(*name), *name))
        .collect();
    // A version 2 mount freezes, kills and tells a service manager whose process this is, even
    // where all controllers are on version 1.
    if layout.unified.is_none() {
        wanted.push(("freezer", "freezer"));
        wanted.push(("name=systemd", "systemd"));
    }
    for (controller, name) in wanted {
        let Some(mounted) = layout.v1.get(controller) else {
            continue;
        };
        let opened =
            open_parent(&mounted.mount, relative).or_else(|_| open_parent(&mounted.own, relative));
        let Ok((path, directory)) = opened else {
            continue;
        };
        let known = hierarchies.iter_mut().find(|one| one.path == path);
        let hierarchy = if let Some(known) = known {
            known
        } else {
            hierarchies.push(Hierarchy {
                path,
                directory,
                controllers: Vec::new(),
                names: Vec::new(),
                unified: false,
                swap: false,
            });
            hierarchies.last_mut().expect("it was just pushed")
        };
        hierarchy.names.push(name);
        if CONTROLLERS.contains(&name) {
            hierarchy.controllers.push(name);
        }
        if name == "memory" {
            hierarchy.swap = hierarchy.path.join("memory.memsw.limit_in_bytes").exists();
        }
    }
    hierarchies
}

pub(super) fn fill(
    hierarchy: &Hierarchy,
    name: &str,
    limits: &Limits,
    group: &mut Group,
) -> Result<(), GroupError> {
    let set = |file: &str, value: String| set_in(hierarchy, name, file, &value);
    if hierarchy.has("memory") {
        let bytes = limits.memory_bytes.to_string();
        set("memory.limit_in_bytes", bytes.clone()).step("limit memory")?;
        if hierarchy.swap {
            set("memory.memsw.limit_in_bytes", bytes).step("limit swap")?;
        }
        group.memory_events = Some(
            open_in(hierarchy, name, "memory.oom_control", OFlags::RDONLY).step("watch memory")?,
        );
    }
    if hierarchy.has("pids") {
        set("pids.max", limits.pids.to_string()).step("limit processes")?;
    }
    if hierarchy.has("cpu") {
        set("cpu.cfs_quota_us", limits.cpu_quota().to_string()).step("limit processor time")?;
    }
    if let (true, Some(io)) = (hierarchy.has("io"), &limits.io) {
        let (major, minor) = io.device;
        for (what, value) in [
            ("read_bps", io.read_bps),
            ("write_bps", io.write_bps),
            ("read_iops", io.read_iops),
            ("write_iops", io.write_iops),
        ] {
            if value > 0 {
                let file = format!("blkio.throttle.{what}_device");
                set(&file, format!("{major}:{minor} {value}")).step("limit input and output")?;
            }
        }
    }
    // `tasks`, not `cgroup.procs`: the latter waits for a grace period also for a single thread.
    let tasks = open_in(hierarchy, name, "tasks", OFlags::WRONLY).step("open the cgroup")?;
    group.join.push(tasks);
    Ok(())
}
