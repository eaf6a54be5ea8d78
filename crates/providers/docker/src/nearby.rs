//! Reaching the agent of a container that runs on this very machine, without the engine.
//!
//! The socket is opened through the root of the container's first process, so nothing of the host
//! is mounted into the container for it. Its rule: the container's files are hostile. The path is
//! resolved as if the container's root were ours, no link in it leads outside, and the process is
//! looked at through one descriptor, so a number that changes hands meanwhile fools nobody.

use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat};
use stacyvm_provider::ByteStream;
use tokio::net::UnixStream;

use crate::agent::SOCKET;

/// How long the look into the container and the connection may take: its files may be on a file
/// system that somebody inside serves.
const LIMIT: Duration = Duration::from_secs(10);
/// More than any `/proc/PID/cgroup`.
const LONGEST_CGROUP: u64 = 64 * 1024;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Unreached {
    /// The container's process is not one of this machine, or we may not look at it.
    Elsewhere,
    /// It is here, but its agent does not take the connection (yet).
    Silent(io::Error),
}

/// Connects to the agent of `container`, an engine's full id, whose first process the engine says
/// is `pid`.
pub(crate) async fn connect(pid: i32, container: &str) -> Result<ByteStream, Unreached> {
    let silent = |error| Unreached::Silent(error);
    let container = container.to_owned();
    let look = tokio::task::spawn_blocking(move || find(pid, &container));
    let connecting = async {
        let socket = look
            .await
            .map_err(|error| silent(io::Error::other(error)))??;
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        UnixStream::connect(path).await.map_err(silent)
    };
    let stream = tokio::time::timeout(LIMIT, connecting)
        .await
        .map_err(|_| silent(io::ErrorKind::TimedOut.into()))??;
    let (read, write) = stream.into_split();
    Ok(ByteStream {
        read: Box::new(read),
        write: Box::new(write),
    })
}

/// The agent's socket. Blocks.
fn find(pid: i32, container: &str) -> Result<OwnedFd, Unreached> {
    let elsewhere = |_| Unreached::Elsewhere;
    let silent = |errno: rustix::io::Errno| Unreached::Silent(errno.into());
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = open(format!("/proc/{pid}"), directory, Mode::empty()).map_err(elsewhere)?;
    if !runs_in(&process, container).map_err(|_| Unreached::Elsewhere)? {
        return Err(Unreached::Elsewhere);
    }
    let root = openat(&process, "root", directory, Mode::empty()).map_err(elsewhere)?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    stacyvm_sys::resolve::open(&root, SOCKET, OFlags::PATH, inside).map_err(silent)
}

/// Whether a process is in a control group that the engine made for the container: its name has the
/// container's id, which no other group has.
fn runs_in(process: &OwnedFd, container: &str) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(process, "cgroup", flags, Mode::empty())?;
    let mut text = String::new();
    std::fs::File::from(file)
        .take(LONGEST_CGROUP)
        .read_to_string(&mut text)?;
    Ok(!container.is_empty() && text.contains(container))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_is_not_the_containers_is_left_alone() {
        let own = i32::try_from(std::process::id()).unwrap();
        for (pid, container) in [
            (own, "a".repeat(64)),
            (own, String::new()),
            (0, "a".repeat(64)),
        ] {
            let refused = connect(pid, &container).await;
            assert!(matches!(refused, Err(Unreached::Elsewhere)), "{pid}");
        }
    }
}
