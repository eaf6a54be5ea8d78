//! Peers over standard input and output, one after the other.
//!
//! The rule: the end of either stream does not end the agent. A container engine that closes them
//! for good leaves a sandbox that the listening socket may still reach.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use stacyvm_proto::link::Link;
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::agent::Agent;
use crate::serve::serve_peer;

/// Makes a link of the two descriptors and sets them non-blocking, because the other end may not
/// read.
///
/// # Errors
/// When one of them is neither a pipe nor anything else that can be waited for.
pub(crate) fn open(input: OwnedFd, output: OwnedFd) -> io::Result<Link<Receiver, Sender>> {
    for end in [&input, &output] {
        fcntl_setfl(end, fcntl_getfl(end)? | OFlags::NONBLOCK)?;
    }
    let input = Receiver::from_owned_fd_unchecked(input)?;
    let output = Sender::from_owned_fd_unchecked(output)?;
    Ok(Link::new(input, output))
}

/// Serves one peer at a time until the pipes are closed.
pub(crate) async fn serve(agent: Arc<Agent>, mut link: Link<Receiver, Sender>) {
    while let Ok((read, write)) = link.accept().await {
        serve_peer(agent.clone(), read, write).await;
    }
}
