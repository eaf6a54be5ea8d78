//! What a request becomes after 101: bytes both ways, until both ends have closed.
//!
//! Its rule: the end of one direction is passed on and ends only that one. A tunnel ends by force
//! with its sandbox, with the server, or when neither side has said anything for too long.

use std::time::Duration;

use http::Extensions;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use stacyvm_orchestrator::Ports;
use stacyvm_stream::{Activity, ActivityStream};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Room for bytes under way, each direction.
const BUFFER: usize = 16 * 1024;
/// How long both sides may take to hand the connection over.
const HANDOVER: Duration = Duration::from_secs(30);

/// Everything a tunnel stands on.
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) inside: OnUpgrade,
    pub(crate) idle: Duration,
    pub(crate) ports: Ports,
    pub(crate) shutdown: CancellationToken,
    /// Its place among the sandbox's connections.
    pub(crate) permit: OwnedSemaphorePermit,
    /// What the server hung on the request: it lives as long as the tunnel.
    pub(crate) extensions: Extensions,
}

impl Tunnel {
    /// Carries bytes to the tunnel's end.
    pub(crate) async fn run(self) {
        let upgraded = async { tokio::try_join!(self.client, self.inside) };
        let Ok(Ok((client, inside))) = tokio::time::timeout(HANDOVER, upgraded).await else {
            return;
        };
        let activity = Activity::new();
        let mut client = ActivityStream::new(TokioIo::new(client), &activity);
        let mut inside = ActivityStream::new(TokioIo::new(inside), &activity);
        tokio::select! {
            // How it ended is the two sides' affair.
            _ = copy_bidirectional_with_sizes(&mut client, &mut inside, BUFFER, BUFFER) => {}
            () = activity.idle(self.idle) => {}
            () = self.ports.ended() => {}
            () = self.shutdown.cancelled() => {}
        }
        drop((self.permit, self.extensions));
    }
}
