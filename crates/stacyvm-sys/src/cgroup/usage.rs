//! What the processes of a group use.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// What the kernel counts for a group; a value is none where it does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory without the part of the file cache that could be dropped at once, bytes.
    pub memory_bytes: Option<u64>,
    /// The memory limit, bytes; none without a limit.
    pub memory_limit_bytes: Option<u64>,
    /// CPU time since the group was made, microseconds.
    pub cpu_microseconds: Option<u64>,
    /// Present number of processes and threads.
    pub pids: Option<u64>,
    /// How many processes were killed because of the memory limit.
    pub oom_kills: Option<u64>,
}

/// Reads the usage of the group with these directories. For a group that is gone all values are none.
#[must_use]
pub fn usage(directories: &BTreeMap<String, PathBuf>) -> Usage {
    let number = |controller: &str, file: &str| -> Option<u64> {
        read(directories, controller, file)?.trim().parse().ok()
    };
    let line = |controller: &str, file: &str, key: &str| -> Option<u64> {
        field(&read(directories, controller, file)?, key)
    };
    let memory = |total: u64, inactive: Option<u64>| total.saturating_sub(inactive.unwrap_or(0));
    let v1_memory = || {
        let total = number("memory", "memory.usage_in_bytes")?;
        Some(memory(
            total,
            line("memory", "memory.stat", "total_inactive_file"),
        ))
    };
    let v2_memory = || {
        let total = number("unified", "memory.current")?;
        Some(memory(
            total,
            line("unified", "memory.stat", "inactive_file"),
        ))
    };
    Usage {
        memory_bytes: v1_memory().or_else(v2_memory),
        memory_limit_bytes: number("memory", "memory.limit_in_bytes")
            .or_else(|| number("unified", "memory.max"))
            // Version 1 has no word for "none", only the largest number of whole pages.
            .filter(|limit| *limit < u64::MAX / 4),
        // Version 2 counts processor time even where the controller itself is elsewhere.
        cpu_microseconds: line("unified", "cpu.stat", "usage_usec")
            .or_else(|| number("cpu", "cpuacct.usage").map(|nanoseconds| nanoseconds / 1000)),
        pids: number("pids", "pids.current").or_else(|| number("unified", "pids.current")),
        oom_kills: line("memory", "memory.oom_control", "oom_kill")
            .or_else(|| line("unified", "memory.events", "oom_kill")),
    }
}

/// Reads only the counters of what the group's limits refused; [`usage`] reads far more.
#[must_use]
pub fn refusals(directories: &BTreeMap<String, PathBuf>) -> Refusals {
    let line = |controller: &str, file: &str, key: &str| -> Option<u64> {
        field(&read(directories, controller, file)?, key)
    };
    Refusals {
        oom_kills: line("memory", "memory.oom_control", "oom_kill")
            .or_else(|| line("unified", "memory.events", "oom_kill"))
            .unwrap_or(0),
        pids: line("pids", "pids.events", "max")
            .or_else(|| line("unified", "pids.events", "max"))
            .unwrap_or(0),
    }
}

/// How often limits of a group had an effect since it was made; 0 where the kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Processes killed because of the memory limit.
    pub oom_kills: u64,
    /// Processes and threads that could not be made.
    pub pids: u64,
}

fn read(directories: &BTreeMap<String, PathBuf>, controller: &str, file: &str) -> Option<String> {
    fs::read_to_string(directories.get(controller)?.join(file)).ok()
}

/// The number behind `key` at the start of a line.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)?
        .1
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_either_version() {
        let place = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            fs::write(place.path().join(name), text).expect("write");
        };
        let only = |name: &str| BTreeMap::from([(name.to_owned(), place.path().to_path_buf())]);
        write("memory.current", "5000\n");
        write("memory.max", "max\n");
        write(
            "memory.stat",
            "anon 1\ninactive_file 1000\ntotal_inactive_file 500\n",
        );
        write("memory.events", "oom 3\noom_kill 2\n");
        write("cpu.stat", "usage_usec 77\n");
        write("pids.current", "4\n");
        write("pids.events", "max 6\n");
        assert_eq!(
            usage(&only("unified")),
            Usage {
                memory_bytes: Some(4000),
                memory_limit_bytes: None,
                cpu_microseconds: Some(77),
                pids: Some(4),
                oom_kills: Some(2),
            }
        );
        assert_eq!(
            refusals(&only("unified")),
            Refusals {
                oom_kills: 2,
                pids: 6
            }
        );
        write("memory.usage_in_bytes", "700\n");
        write("memory.limit_in_bytes", "9000\n");
        write(
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        );
        let usage = usage(&only("memory"));
        assert_eq!(usage.memory_bytes, Some(200));
        assert_eq!(usage.memory_limit_bytes, Some(9000));
        assert_eq!(usage.oom_kills, Some(1));
        assert_eq!(usage.pids, None);
    }

    #[test]
    fn a_group_that_is_gone_is_no_error() {
        let gone = BTreeMap::from([("memory".to_owned(), PathBuf::from("/proc/0/none"))]);
        assert_eq!(usage(&gone), Usage::default());
    }
}
