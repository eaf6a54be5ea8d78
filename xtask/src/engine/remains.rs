//! The end of an engine, running or left by a run that was killed: its processes, those of its
//! containers, its cgroups, its mounts and its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::EngineFiles;
use crate::tools;

/// How long killed processes may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);

/// The programs of an engine. Other programs, such as an editor, may also have its path on their
/// command line; they are left alone.
const PROGRAMS: [&str; 5] = ["dockerd", "containerd", "runsc", "runc", "docker-proxy"];

/// Ends everything that belongs to the engine with these files. It is no error when nothing is left.
pub(super) fn end(files: &EngineFiles) -> Result<()> {
    let start = Instant::now();
    loop {
        // The daemon and the shims first: they would restart the containers' processes, or report
        // their end.
        let mut alive = daemons(files);
        if alive.is_empty() {
            alive = contained(files);
        }
        if alive.is_empty() {
            break;
        }
        ensure!(
            start.elapsed() < KILL_TIMEOUT,
            "processes of the engine do not end: {alive:?}"
        );
        for pid in alive {
            // A process that has ended meanwhile is no error.
            let _ = tools::works("kill", &["-KILL", &pid.to_string()]);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for group in groups(files) {
        // Deepest first, and empty by now.
        let _ = fs::remove_dir(group);
    }
    unmount(files)?;
    for directory in [&files.run, &files.data] {
        if directory.exists() {
            tools::run(
                Command::new("rm")
                    .args(["-rf", "--one-file-system", "--"])
                    .arg(directory),
            )?;
        }
    }
    Ok(())
}

/// Processes of the engine itself.
fn daemons(files: &EngineFiles) -> Vec<u32> {
    let mark = files.mark();
    processes(|directory| {
        let line = fs::read(directory.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0');
        let program = words.next().unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or(program);
        let is_part = PROGRAMS.iter().any(|part| program.starts_with(part));
        is_part && words.any(|word| word.contains(&mark))
    })
}

/// Processes in its containers.
fn contained(files: &EngineFiles) -> Vec<u32> {
    let mark = format!(":/{}/", files.cgroup());
    processes(|directory| {
        fs::read_to_string(directory.join("cgroup")).is_ok_and(|text| text.contains(&mark))
    })
}

/// Living processes that `matches` says yes to, by their directory in `/proc`. One that only waits for
/// its parent to look at it has no command line and is in no group of ours.
fn processes(matches: impl Fn(&Path) -> bool) -> Vec<u32> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (pid != own && matches(&entry.path()) && !is_zombie(&entry.path())).then_some(pid)
        })
        .collect()
}

fn is_zombie(directory: &Path) -> bool {
    fs::read_to_string(directory.join("stat")).is_ok_and(|stat| {
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
    })
}

/// Its cgroups in every hierarchy, deepest first.
fn groups(files: &EngineFiles) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut waiting = vec![root.join(files.cgroup())];
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        waiting.push(entry.path().join(files.cgroup()));
    }
    let mut found = Vec::new();
    while let Some(directory) = waiting.pop() {
        if !directory.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            }
        }
        found.push(directory);
    }
    // A parent is always found before what is in it.
    found.reverse();
    found
}

/// Takes away the roots of its containers, their namespaces and their temporary file systems.
fn unmount(files: &EngineFiles) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    for target in mounts_below(&table, &[&files.run, &files.data])
        .iter()
        .rev()
    {
        tools::run(Command::new("umount").arg("--lazy").arg(target))?;
    }
    Ok(())
}

/// Where the lines of a mount table are mounted, of those below one of `places`.
fn mounts_below(table: &str, places: &[&PathBuf]) -> Vec<PathBuf> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        // Blanks are written as their octal number.
        .map(|target| PathBuf::from(target.replace("\\040", " ")))
        .filter(|target| places.iter().any(|files| target.starts_with(files)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::mounts_below;

    #[test]
    fn only_mounts_of_the_engine_are_taken_away() {
        let table = "\
            22 1 0:20 / /run rw shared:1 - tmpfs tmpfs rw\n\
            23 22 0:21 / /run/engine-1/exec/netns/a rw - nsfs nsfs rw\n\
            24 22 0:22 / /run/engine-10/x rw - tmpfs tmpfs rw\n\
            25 1 0:23 / /data/my\\040target/overlay/merged rw - overlay overlay rw\n";
        let places = [
            &PathBuf::from("/run/engine-1"),
            &PathBuf::from("/data/my target"),
        ];
        assert_eq!(
            mounts_below(table, &places),
            [
                PathBuf::from("/run/engine-1/exec/netns/a"),
                PathBuf::from("/data/my target/overlay/merged"),
            ]
        );
    }
}
