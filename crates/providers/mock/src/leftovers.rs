//! Processes of a sandbox that its agent did not take along.
//!
//! An agent that is told to end ends all that it started. One that was killed leaves orphans;
//! those are known by the mark that every agent gives its commands (see `marked`) together with
//! where they work: inside the sandbox's directory. The agent itself is known by its command line
//! when its number was never written down.

use std::path::Path;

use crate::process::{Identity, start_ticks};

/// How often the search is repeated: what is found may be making more.
const ROUNDS: usize = 8;

/// Kills what belongs to the sandbox whose directory is `home`; answers whether all of it is gone.
pub(crate) fn kill(home: &Path, root: &Path) -> bool {
    for _ in 0..ROUNDS {
        let found = find(home, root);
        if found.is_empty() {
            return true;
        }
        for process in found {
            // One that has ended meanwhile is no failure; one that resists is found again.
            let _ = process.kill();
        }
    }
    find(home, root).is_empty()
}

fn find(home: &Path, root: &Path) -> Vec<Identity> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut found = Vec::new();
    // Systems without /proc have nothing to look through.
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
        // Read first: when the number changes hands afterwards, the identity fits nobody.
        let start_ticks = start_ticks(pid);
        if belongs(&entry.path(), home, root) {
            found.push(Identity { pid, start_ticks });
        }
    }
    found.retain(|process| process.lives());
    found
}

fn belongs(process: &Path, home: &Path, root: &Path) -> bool {
    let works_inside =
        std::fs::read_link(process.join("cwd")).is_ok_and(|place| place.starts_with(home));
    (works_inside && marked(process)) || is_agent(process, root)
}

/// Whether an agent's command, or what descends from one: agents set the limit of file locks,
/// which the kernel does not use, to numbers that nobody sets in earnest.
fn marked(process: &Path) -> bool {
    const LOWEST_MARK: u64 = 1 << 62;
    std::fs::read_to_string(process.join("limits")).is_ok_and(|limits| {
        limits
            .lines()
            .find_map(|line| line.strip_prefix("Max file locks"))
            .and_then(|values| values.split_whitespace().next())
            .and_then(|value| value.parse::<u64>().ok())
            .is_some_and(|value| value >= LOWEST_MARK && value != u64::MAX)
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
