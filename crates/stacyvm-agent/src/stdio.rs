//! Peers over standard input and output, one after the other.
//!
//! Its one rule: no end of stream there is the agent's end. An engine that closes them for good
//! leaves a sandbox that other doors may still reach.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use stacyvm_proto::link::Link;
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::agent::Agent;
use crate::serve::serve_peer;

/// Takes the two over, not blocking: nobody may be reading.
///
/// # Errors
/// When one of them is no pipe, or nothing else that can be waited for.
pub(crate) fn open(input: OwnedFd, output: OwnedFd) -> io::Result<Link<Receiver, Sender>> {
    for end in [&input, &output] {
        fcntl_setfl(end, fcntl_getfl(end)? | OFlags::NONBLOCK)?;
    }
    let input = Receiver::from_owned_fd_unchecked(input)?;
    let output = Sender::from_owned_fd_unchecked(output)?;
    Ok(Link::new(input, output))
}

/// Serves one peer at a time for as long as the pipes are there.
pub(crate) async fn serve(agent: Arc<Agent>, mut link: Link<Receiver, Sender>) {
    while let Ok((read, write)) = link.accept().await {
        serve_peer(agent.clone(), read, write).await;
    }
}
