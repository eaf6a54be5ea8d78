//! The agent's process: starting it, recognising it after a restart of the server, ending it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// Identifies one process also after its id was reused: the id and the time of its start, in clock
/// ticks since boot (0 where the system does not tell).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
}

/// Starts an agent that serves `listener` with `root` as its `/`.
///
/// The agent gets a process group of its own, so that no terminal's signals reach it, and a thread
/// that reaps it, so that it does not stay a zombie while this server lives.
pub(crate) fn start(agent: &Path, root: &Path, listener: OwnedFd) -> io::Result<Identity> {
    use std::os::unix::process::CommandExt;
    let mut child = Command::new(agent)
        // Standard input is the one descriptor that a child inherits without further calls.
        .args(["--listen-fd", "0", "--root"])
        .arg(root)
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // The server's environment may hold secrets.
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    // It has not been waited for, so the id still belongs to it.
    let start_ticks = start_ticks(pid);
    std::thread::Builder::new()
        .name("mock-reaper".to_owned())
        .stack_size(64 * 1024)
        .spawn(move || child.wait())?;
    Ok(Identity { pid, start_ticks })
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use stacyvm_sys::{pidfd, proc};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    use super::Identity;

    pub(crate) fn start_ticks(pid: i32) -> u64 {
        proc::start_ticks(pid).unwrap_or(0)
    }

    #[expect(
        deprecated,
        reason = "the replacement is unsafe for types that close their descriptor early; an OwnedFd does not"
    )]
    fn watch(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
        AsyncFd::with_interest(process, Interest::READABLE)
    }

    impl Identity {
        /// Whether the process runs.
        pub(crate) fn lives(self) -> bool {
            match pidfd::open_started_at(self.pid, self.start_ticks) {
                // A zombie has ended; its descriptor says so at once.
                Ok(Some(process)) => !pidfd::wait(process, Duration::ZERO).unwrap_or(false),
                Ok(None) => false,
                // Unknown: a process that may run must not be forgotten.
                Err(_) => true,
            }
        }

        /// Sends SIGKILL; success when the process has ended before.
        pub(crate) fn kill(self) -> io::Result<()> {
            match pidfd::open_started_at(self.pid, self.start_ticks)? {
                Some(process) => Ok(pidfd::kill(process)?),
                None => Ok(()),
            }
        }

        /// Resolves when the process has ended.
        pub(crate) async fn wait(self) -> io::Result<()> {
            if let Some(process) = pidfd::open_started_at(self.pid, self.start_ticks)? {
                let watched = watch(process)?;
                // A descriptor that is readable once stays so.
                let _ready = watched.readable().await?;
            }
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::time::Duration;

    use rustix::process::{Pid, Signal, kill_process, test_kill_process};

    use super::Identity;

    pub(crate) fn start_ticks(_: i32) -> u64 {
        0
    }

    impl Identity {
        /// Whether the process runs.
        pub(crate) fn lives(self) -> bool {
            Pid::from_raw(self.pid).is_some_and(|pid| test_kill_process(pid).is_ok())
        }

        /// Sends SIGKILL; success when the process has ended before.
        pub(crate) fn kill(self) -> io::Result<()> {
            match Pid::from_raw(self.pid).map(|pid| kill_process(pid, Signal::KILL)) {
                None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
                Some(Err(error)) => Err(error.into()),
            }
        }

        /// Resolves when the process has ended.
        pub(crate) async fn wait(self) -> io::Result<()> {
            while self.lives() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        }
    }
}

pub(crate) use system::start_ticks;
