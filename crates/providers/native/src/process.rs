//! The first process of a sandbox: known by pidfd and start time, never by a bare number that the
//! kernel may have given to another process since.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use stacyvm_sys::pidfd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::readiness;

/// The first process of a sandbox.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// None for a process that had ended when it was looked for.
    pidfd: Option<AsyncFd<OwnedFd>>,
}

impl Process {
    /// Takes over a pidfd that the launcher sent.
    pub(crate) fn from_pidfd(pid: i32, pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            pid,
            pidfd: Some(readiness::watch(pidfd, Interest::READABLE)?),
        })
    }

    /// A process that had ended already.
    pub(crate) fn gone() -> Self {
        Self {
            pid: 0,
            pidfd: None,
        }
    }

    /// Finds a process that a file on disk names; none when it has ended, also when its number
    /// belongs to another one by now.
    pub(crate) fn adopt(pid: i32, start_ticks: u64) -> io::Result<Option<Self>> {
        match pidfd::open_started_at(pid, start_ticks)? {
            Some(pidfd) => Self::from_pidfd(pid, pidfd).map(Some),
            None => Ok(None),
        }
    }

    /// Whether it has ended.
    pub(crate) fn ended(&self) -> bool {
        self.pidfd
            .as_ref()
            .is_none_or(|pidfd| pidfd::wait(pidfd.get_ref(), Duration::ZERO).unwrap_or(false))
    }

    /// Ends it, and with it everything in its process namespace. Success when it has ended before.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match &self.pidfd {
            Some(pidfd) => Ok(pidfd::kill(pidfd.get_ref())?),
            None => Ok(()),
        }
    }

    /// Resolves when it has ended: for the first process of a namespace the kernel says so only
    /// after every other process in there is gone.
    pub(crate) async fn wait(&self) {
        if let Some(pidfd) = &self.pidfd {
            // Once readable, a pidfd stays readable, so the readiness is never cleared.
            if pidfd.readable().await.is_err() {
                // The runtime shuts down and cannot tell, which is not the end of the process: the
                // sandbox must not be taken for stopped.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use stacyvm_sys::proc::start_ticks;

    use super::*;

    #[tokio::test]
    async fn a_process_is_known_by_number_and_start_time_together() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = start_ticks(pid).unwrap();

        assert!(Process::adopt(pid, start + 1).unwrap().is_none());
        let process = Process::adopt(pid, start).unwrap().unwrap();
        assert!(!process.ended());
        process.kill().unwrap();
        process.wait().await;
        assert!(process.ended());
        child.wait().unwrap();
        process.kill().unwrap();
        assert!(Process::adopt(pid, start).unwrap().is_none());
    }
}
