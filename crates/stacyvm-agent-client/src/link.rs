//! Connections over the standard input and output of an agent (`stacyvm_proto::link`).

use std::time::Duration;

use stacyvm_proto::link::{self, NONCE_LEN};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::OpError;
use crate::convert::gone;

/// How long an agent has to begin the session: it may still be starting in a slow sandbox, and it may
/// have to write output of earlier sessions first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Begins a session on the pipes of an agent that serves its standard input and output. The halves
/// behave like those of a socket; the session before ends.
///
/// # Errors
/// `Gone` when the agent does not answer.
pub async fn link<R, W>(
    read: R,
    write: W,
) -> Result<(link::HostRead<R, W>, link::SessionWrite<W>), OpError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let nonce: [u8; NONCE_LEN] = rand::random();
    match tokio::time::timeout(CONNECT_TIMEOUT, link::connect(read, write, nonce)).await {
        Ok(joined) => joined.map_err(|error| gone(error.kind())),
        Err(_) => Err(gone("it did not take the connection in time")),
    }
}
