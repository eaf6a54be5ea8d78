//! Connections to the agent's own socket, for containers that run on this very machine.
//!
//! The socket is opened through the root of the container's first process, so no file of the host is
//! mounted into the container for it. The one rule: the container's files are hostile. The path is
//! resolved within the container's root, no link in it leads outside, and the process is inspected
//! through one descriptor, so a process id that is reused meanwhile does no harm.

use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat};
use stacyvm_provider::ByteStream;
use tokio::net::UnixStream;

use crate::agent::SOCKET;

/// How long finding the socket and connecting to it may take: the container's files may be on a
/// file system that a program inside serves.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a `/proc/PID/cgroup` is read, which is more than any has.
const MAX_CGROUP_BYTES: u64 = 64 * 1024;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum LocalSocketError {
    /// The container's process does not run on this machine, or this server may not inspect it.
    Elsewhere,
    /// The process is here, but its agent does not take the connection (yet).
    Failed(io::Error),
}

/// Connects to the agent of `container`, an engine's full id, whose first process the engine says
/// is `pid`.
pub(crate) async fn connect(pid: i32, container: &str) -> Result<ByteStream, LocalSocketError> {
    let failed = LocalSocketError::Failed;
    let container = container.to_owned();
    let finding = tokio::task::spawn_blocking(move || find(pid, &container));
    let connecting = async {
        let socket = finding
            .await
            .map_err(|error| failed(io::Error::other(error)))??;
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        UnixStream::connect(path).await.map_err(failed)
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))??;
    let (read, write) = stream.into_split();
    Ok(ByteStream {
        read: Box::new(read),
        write: Box::new(write),
    })
}

/// Opens the agent's socket. Blocks.
fn find(pid: i32, container: &str) -> Result<OwnedFd, LocalSocketError> {
    let elsewhere = |_| LocalSocketError::Elsewhere;
    let failed = |errno: rustix::io::Errno| LocalSocketError::Failed(errno.into());
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = open(format!("/proc/{pid}"), directory, Mode::empty()).map_err(elsewhere)?;
    if !runs_in(&process, container).map_err(|_| LocalSocketError::Elsewhere)? {
        return Err(LocalSocketError::Elsewhere);
    }
    let root = openat(&process, "root", directory, Mode::empty()).map_err(elsewhere)?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    stacyvm_sys::resolve::open(&root, SOCKET, OFlags::PATH, inside).map_err(failed)
}

/// Whether a process is in the control group that the engine made for the container. Its name
/// contains the container's id, which no other group's name does.
fn runs_in(process: &OwnedFd, container: &str) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(process, "cgroup", flags, Mode::empty())?;
    let mut text = String::new();
    std::fs::File::from(file)
        .take(MAX_CGROUP_BYTES)
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
            assert!(matches!(refused, Err(LocalSocketError::Elsewhere)), "{pid}");
        }
    }
}
