//! A request after it was upgraded: bytes both ways, until both ends have closed.
//!
//! Its rule: the end of one direction is passed on and ends only that one. A tunnel is cut when its
//! sandbox or the server ends, or when no bytes move in either direction for too long.

use std::time::Duration;

use http::Extensions;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use stacyvm_orchestrator::Ports;
use stacyvm_stream::{Activity, ActivityStream};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Bytes that are copied at once, each way.
const CHUNK_SIZE: usize = 16 * 1024;
/// How long both sides may take to hand the connection over.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);

/// An upgraded request, and everything that it holds.
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) upstream: OnUpgrade,
    pub(crate) idle_timeout: Duration,
    pub(crate) ports: Ports,
    pub(crate) shutdown: CancellationToken,
    /// The tunnel's permit among the sandbox's connections.
    pub(crate) permit: OwnedSemaphorePermit,
    /// What the server attached to the request; it lives as long as the tunnel.
    pub(crate) extensions: Extensions,
}

impl Tunnel {
    /// Carries bytes until the tunnel's end.
    pub(crate) async fn run(self) {
        let upgraded = async { tokio::try_join!(self.client, self.upstream) };
        let Ok(Ok((client, upstream))) = tokio::time::timeout(UPGRADE_TIMEOUT, upgraded).await
        else {
            return;
        };
        let activity = Activity::new();
        let mut client = ActivityStream::new(TokioIo::new(client), &activity);
        let mut upstream = ActivityStream::new(TokioIo::new(upstream), &activity);
        let copying =
            copy_bidirectional_with_sizes(&mut client, &mut upstream, CHUNK_SIZE, CHUNK_SIZE);
        tokio::select! {
            // How the tunnel ended is for its two sides to see.
            _ = copying => {}
            () = activity.idle(self.idle_timeout) => {}
            () = self.ports.ended() => {}
            () = self.shutdown.cancelled() => {}
        }
        drop((self.permit, self.extensions));
    }
}
