//! Descriptors of processes, which stay valid when a process id is reused.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Opens the process with this id; none when there is none.
///
/// # Errors
/// The error of the system call, but for `ESRCH` (no such process).
pub fn open(pid: i32) -> Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(None);
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(Errno::SRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the process with this id and start time; none when it has ended, even if another process has
/// its id now.
///
/// # Errors
/// As [`open`].
pub fn open_started_at(pid: i32, start_ticks: u64) -> Result<Option<OwnedFd>> {
    let Some(pidfd) = open(pid)? else {
        return Ok(None);
    };
    // The descriptor is open: from here on the id cannot be reused unnoticed.
    Ok((crate::proc::start_ticks(pid) == Some(start_ticks)).then_some(pidfd))
}

/// Sends SIGKILL. A process that has already ended is success.
///
/// # Errors
/// When the caller may not.
pub fn kill(pidfd: impl AsFd) -> Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until the process has ended; false when the time is over first.
///
/// # Errors
/// The error of poll(2).
pub fn wait(pidfd: impl AsFd, at_most: Duration) -> Result<bool> {
    let deadline = std::time::Instant::now() + at_most;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut watched, Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn kills_and_waits_for_the_very_process() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = i32::try_from(child.id()).expect("fits");
        let ticks = crate::proc::start_ticks(pid).expect("it runs");
        assert!(open_started_at(pid, ticks + 1).expect("open").is_none());
        let pidfd = open_started_at(pid, ticks).expect("open").expect("it runs");
        assert!(!wait(&pidfd, Duration::ZERO).expect("poll"));
        kill(&pidfd).expect("kill");
        assert!(wait(&pidfd, Duration::from_secs(60)).expect("poll"));
        child.wait().expect("reap");
        kill(&pidfd).expect("a second kill is no error");
        assert!(open(pid).expect("open").is_none());
    }
}
