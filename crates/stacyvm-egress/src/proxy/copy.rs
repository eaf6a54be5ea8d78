//! Bytes carried both ways between a sandbox and a host.

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

/// Bytes that are copied at once, each way.
const CHUNK_SIZE: usize = 32 * 1024;

/// Copies until both directions have ended. How a connection ends is for its two sides to see, so
/// errors are not reported.
pub(super) async fn copy_both_ways(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
) {
    let _ = copy_bidirectional_with_sizes(client, server, CHUNK_SIZE, CHUNK_SIZE).await;
}
