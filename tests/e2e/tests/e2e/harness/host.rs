//! What the host holds of a server's sandboxes: processes, mounts, cgroups, directories. Looked up
//! in the kernel's own tables, never asked of the program under test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Processes that have `text` in their cgroups, command line or environment. An id is
/// unique enough for that, a data directory too.
pub(crate) fn processes(text: &str) -> BTreeSet<i32> {
    let own = std::process::id().to_string();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let mentions = ["cgroup", "cmdline"].iter().any(|file| {
            fs::read(entry.path().join(file))
                .is_ok_and(|content| String::from_utf8_lossy(&content).contains(text))
        });
        if mentions && runs(&name) {
            found.insert(name.parse().unwrap());
        }
    }
    found
}

/// The parent that a line of `/proc/PID/stat` names.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Whether it is there and has not ended: one that only waits for its parent to look has, and one
/// that has gone since it was looked at too.
fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    })
}

/// Processes that have exactly this argument, wherever they run. A test gives its commands an
/// argument that no other process has.
pub(crate) fn with_argument(argument: &str) -> BTreeSet<i32> {
    with_command_line(|line| {
        line.split(|&byte| byte == 0)
            .any(|word| word == argument.as_bytes())
    })
}

/// Processes that run exactly this command.
pub(crate) fn with_arguments(arguments: &[&str]) -> BTreeSet<i32> {
    let wanted = arguments.join("\0") + "\0";
    with_command_line(|line| line == wanted.as_bytes())
}

fn with_command_line(matches: impl Fn(&[u8]) -> bool) -> BTreeSet<i32> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| matches(&line)))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Lines of our mount table that name `text`.
pub(crate) fn mounts(text: &str) -> Vec<String> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains(text))
        .map(str::to_owned)
        .collect()
}

/// Names of sandboxes that have a cgroup below one whose path holds `instance`.
pub(crate) fn cgroups(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if entry.file_name().to_string_lossy().contains(name) {
                    found.push(path.display().to_string());
                }
                waiting.push(path);
            }
        }
    }
    found
}

/// Ids of the boxes that a data directory holds, of either provider.
pub(crate) fn boxes(data_dir: &Path) -> BTreeSet<String> {
    ["native/boxes", "mock/boxes", "mock"]
        .iter()
        .flat_map(|place| fs::read_dir(data_dir.join(place)).into_iter().flatten())
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("sb-"))
        .collect()
}

/// Everything of a sandbox that should not be there once it is destroyed.
pub(crate) fn remains(id: &str, data_dir: &Path) -> Vec<String> {
    let mut found: Vec<String> = processes(id)
        .iter()
        .map(|pid| format!("process {pid}"))
        .collect();
    found.extend(mounts(id).into_iter().map(|line| format!("mount {line}")));
    found.extend(cgroups(id).into_iter().map(|path| format!("cgroup {path}")));
    if boxes(data_dir).contains(id) {
        found.push("its box directory".to_owned());
    }
    found
}

/// What belongs to this server and to none of the sandboxes that it knows of.
pub(crate) fn unknown(data_dir: &Path, known: &BTreeSet<String>, server: Pid) -> Vec<String> {
    let mut found: Vec<String> = boxes(data_dir)
        .difference(known)
        .map(|id| format!("box directory {id}"))
        .collect();
    found.extend(
        mounts(&data_dir.display().to_string())
            .into_iter()
            .map(|line| format!("mount {line}")),
    );
    // Every server has a group of its own in each hierarchy. Its name is learnt from a living
    // sandbox; without one there is nothing to compare with in this look.
    for (directory, id) in known.iter().flat_map(|id| groups_beside(id)) {
        if !known.contains(&id) {
            found.push(format!("cgroup {}/{id}", directory.display()));
        }
    }
    // Programs of ours run from the data directory, or have it on their command line: this
    // server, its launchers, and the first process of every sandbox it knows of.
    for pid in processes(&data_dir.display().to_string()) {
        let read = |file: &str| {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let belongs = pid == server.as_raw_nonzero().get()
            || parent(&read("stat")) == Some(server.as_raw_nonzero().get())
            || known
                .iter()
                .any(|id| read("cgroup").contains(id) || read("cmdline").contains(id));
        if !belongs {
            found.push(format!("process {pid} {:?}", read("cmdline")));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The groups that stand beside those of one sandbox, with the directory they stand in.
fn groups_beside(id: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for path in cgroups(id) {
        let Some(parent) = Path::new(&path).parent() else {
            continue;
        };
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("sb-") {
                found.push((parent.to_owned(), name));
            }
        }
    }
    found
}

/// A figure of `/proc/PID/status`, in KiB: `VmRSS`, `VmHWM`.
pub(crate) fn memory_kib(pid: Pid, key: &str) -> u64 {
    fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap()
}

/// Ends what a failed test's sandboxes still run: processes that the data directory's own records
/// name, and whatever is in their cgroups. Removes their empty cgroups.
pub(crate) fn sweep(data_dir: &Path) {
    for id in boxes(data_dir) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let processes = processes(&id);
            if processes.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in processes.into_iter().filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for path in cgroups(&id) {
            let _ = fs::remove_dir(path);
        }
    }
}
