//! Waiting for descriptors that tokio has no type of its own for: pidfds and packet sockets.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Hands a descriptor to the runtime's event loop. Must run inside the runtime.
#[expect(
    deprecated,
    reason = "the replacement is unsafe because a type could close its descriptor while the event loop still uses it; an OwnedFd cannot"
)]
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}
