//! Ending the processes of a group and removing it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::{Errno, Result};

/// Sends SIGKILL to every process of a group, whatever namespace it is in. Directories that are
/// gone are no error.
///
/// # Errors
/// The error of the system call.
pub fn kill(directories: &BTreeMap<String, PathBuf>) -> Result<()> {
    if let Some(unified) = directories.get("unified") {
        match fs::write(unified.join("cgroup.kill"), "1") {
            Ok(()) => return Ok(()),
            // Before Linux 5.14 there is no such file; or the group is gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
    for directory in directories.values() {
        for pid in members(directory) {
            // Opened before the members are read again: if another process has got the number
            // meanwhile, it is not a member.
            let Some(pidfd) = crate::pidfd::open(pid)? else {
                continue;
            };
            if members(directory).contains(&pid) {
                crate::pidfd::kill(&pidfd)?;
            }
        }
    }
    Ok(())
}

/// Kills the processes of a group and removes it. Blocks for at most `timeout`.
///
/// # Errors
/// `EBUSY` when the group still has a process after that time; otherwise the error of the system call.
pub fn remove(directories: &BTreeMap<String, PathBuf>, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_micros(100);
    loop {
        let mut last = Ok(());
        for directory in directories.values() {
            match rustix::fs::rmdir(directory) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => last = Err(error),
            }
        }
        match last {
            Err(Errno::BUSY) if Instant::now() < deadline => {}
            result => return result,
        }
        kill(directories)?;
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn members(directory: &Path) -> Vec<i32> {
    fs::read_to_string(directory.join("cgroup.procs"))
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
        // 0 means a process of a pid namespace that is not visible from here.
        .filter(|pid| *pid > 0)
        .collect()
}
