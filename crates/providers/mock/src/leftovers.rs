//! Processes of a sandbox that are left after the end of its agent.
//!
//! An agent that is asked to end ends every process that it started. One that was killed leaves
//! orphans. They are recognised by the mark that every agent gives its commands (see `is_marked`)
//! together with a working directory inside the sandbox's directory. The agent itself is recognised
//! by its command line, for the case that its process id was never written down.

use std::path::Path;

use crate::process::{Identity, start_ticks};

/// How often the search is repeated, because a process may start others before it is killed.
const MAX_ROUNDS: usize = 8;

/// Kills the processes of the sandbox in `directory`; returns whether all of them are gone.
pub(crate) fn kill(directory: &Path, root: &Path) -> bool {
    for _ in 0..MAX_ROUNDS {
        let found = find(directory, root);
        if found.is_empty() {
            return true;
        }
        for process in found {
            // A process that has ended meanwhile is no failure; one that still runs is found again.
            let _ = process.kill();
        }
    }
    find(directory, root).is_empty()
}

fn find(directory: &Path, root: &Path) -> Vec<Identity> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut found = Vec::new();
    // A system without /proc has nothing to search.
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if pid == own {
            continue;
        }
        // Read first: if another process gets the id afterwards, it does not match this identity.
        let start_ticks = start_ticks(pid);
        if belongs(&entry.path(), directory, root) {
            found.push(Identity { pid, start_ticks });
        }
    }
    found.retain(|process| process.lives());
    found
}

fn belongs(process: &Path, directory: &Path, root: &Path) -> bool {
    let works_inside =
        std::fs::read_link(process.join("cwd")).is_ok_and(|path| path.starts_with(directory));
    (works_inside && is_marked(process)) || is_agent(process, root)
}

/// Whether the process is a command of an agent or descends from one: agents set the limit of file
/// locks, which the kernel does not use, to numbers that no program sets for another purpose.
fn is_marked(process: &Path) -> bool {
    const MIN_MARK: u64 = 1 << 62;
    std::fs::read_to_string(process.join("limits")).is_ok_and(|limits| {
        limits
            .lines()
            .find_map(|line| line.strip_prefix("Max file locks"))
            .and_then(|values| values.split_whitespace().next())
            .and_then(|value| value.parse::<u64>().ok())
            .is_some_and(|value| value >= MIN_MARK && value != u64::MAX)
    })
}

fn is_agent(process: &Path, root: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(line) = std::fs::read(process.join("cmdline")) else {
        return false;
    };
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let arguments: [&[u8]; 4] = [b"--listen-fd", b"0", b"--root", root.as_os_str().as_bytes()];
    words.get(1..5) == Some(&arguments)
}
