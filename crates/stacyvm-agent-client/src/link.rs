//! A connection of its own on pipes that servers share over time (`stacyvm_proto::link`).

use std::time::Duration;

use stacyvm_proto::link::{self, NONCE_LEN};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::OpError;
use crate::convert::gone;

/// How long an agent has to take the pipes over for us: it may only just be starting, in a sandbox
/// that is slow, and it may have much to say to others first.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Begins a session on the pipes of an agent that serves its standard input and output. The halves
/// are as good as those of a socket; whoever used the pipes before sees an end.
///
/// # Errors
/// `Gone` when nobody answers.
pub async fn link<R, W>(
    read: R,
    write: W,
) -> Result<(link::HostRead<R, W>, link::SessionWrite<W>), OpError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let nonce: [u8; NONCE_LEN] = rand::random();
    match tokio::time::timeout(TAKEN_WITHIN, link::connect(read, write, nonce)).await {
        Ok(joined) => joined.map_err(|error| gone(error.kind())),
        Err(_) => Err(gone("it did not take the connection in time")),
    }
}
