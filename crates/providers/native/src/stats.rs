//! What a box uses, from its control groups and from the disk.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, openat, statat};
use stacyvm_types::SandboxStats;

use crate::boxes::BoxEntry;
use crate::disk;

/// How long a measurement of the disk is used again: it walks every file of the sandbox.
const DISK_SAMPLE_MAX_AGE: Duration = Duration::from_secs(10);
/// Files that one measurement looks at; a sandbox with more shows less than it uses.
const MAX_DISK_ENTRIES: usize = 50_000;
/// Levels that one measurement goes down.
const MAX_DISK_DEPTH: usize = 64;
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Measures a box. Blocks.
pub(crate) fn measure(entry: &BoxEntry) -> SandboxStats {
    let (groups, limits, own_disk) = {
        let resources = entry.resources();
        (resources.cgroups.clone(), resources.limits, resources.disk)
    };
    let counted = stacyvm_sys::cgroup::usage(&groups);
    let now = Instant::now();
    let disk_bytes = own_disk
        .and_then(|_| limited_disk(entry))
        .unwrap_or_else(|| walked_disk(entry, now));
    let mut resources = entry.resources();
    let cpu_nanos = counted.cpu_microseconds.unwrap_or(0) * 1000;
    let cpu_pct = match resources.cpu_sample.replace((now, cpu_nanos)) {
        Some((then, before)) if now > then => {
            let used = cpu_nanos.saturating_sub(before) as f64;
            used / (now - then).as_nanos() as f64 * 100.0
        }
        _ => 0.0,
    };
    SandboxStats {
        supported: true,
        cpu_pct,
        mem_bytes: counted.memory_bytes.unwrap_or(0),
        mem_limit_bytes: counted
            .memory_limit_bytes
            .or_else(|| limits.map(|limits| limits.memory_bytes))
            .unwrap_or(0),
        pids: counted.pids.unwrap_or(0),
        disk_bytes,
        net_rx_bytes: 0,
        net_tx_bytes: 0,
        cpu_limit: limits.map_or(0.0, |limits| limits.vcpus),
        pids_limit: limits.map_or(0, |limits| limits.pids.into()),
        disk_limit_bytes: own_disk.map_or(0, |disk| disk.bytes()),
        oom_kills: counted.oom_kills.unwrap_or(0),
    }
}

/// The use that the file system of a limited disk counts; none when the sandbox has ended.
fn limited_disk(entry: &BoxEntry) -> Option<u64> {
    let process = entry.process()?;
    let fill = disk::fill(process.pid)?;
    // After its end the number may be another process's.
    (!process.ended()).then_some(fill.used_bytes)
}

fn walked_disk(entry: &BoxEntry, now: Instant) -> u64 {
    if let Some((then, bytes)) = entry.resources().disk_sample
        && now.saturating_duration_since(then) < DISK_SAMPLE_MAX_AGE
    {
        return bytes;
    }
    let bytes = disk_usage(&entry.dir);
    entry.resources().disk_sample = Some((now, bytes));
    bytes
}

/// Blocks on disk of everything below `dir`, following no link.
fn disk_usage(dir: &Path) -> u64 {
    let mut left = MAX_DISK_ENTRIES;
    open(dir, DIRECTORY, Mode::empty()).map_or(0, |root| walk(&root, 0, &mut left))
}

fn walk(dir: &OwnedFd, depth: usize, left: &mut usize) -> u64 {
    let mut bytes = 0;
    let Ok(mut entries) = Dir::read_from(dir) else {
        return 0;
    };
    while let Some(Ok(child)) = entries.read() {
        let name = child.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if *left == 0 {
            break;
        }
        *left -= 1;
        let Ok(stat) = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        // In units of 512 bytes whatever the file system's own block is, see stat(2).
        bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && depth < MAX_DISK_DEPTH
            && let Ok(child) = openat(dir, name, DIRECTORY, Mode::empty())
        {
            bytes += walk(&child, depth + 1, left);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_use_counts_files_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("big"), vec![1; 4 << 20]).unwrap();
        std::fs::create_dir_all(dir.path().join("layers/0")).unwrap();
        let empty = disk_usage(dir.path());
        std::fs::write(dir.path().join("layers/0/file"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("link")).unwrap();
        let full = disk_usage(dir.path());
        assert!(full - empty >= 1 << 20, "{empty} {full}");
        assert!(full - empty < 2 << 20, "a link was followed: {full}");
    }
}
