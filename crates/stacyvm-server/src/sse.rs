//! Events as a server-sent stream: unnamed blocks with an id, and comments while nothing happens.
//!
//! Nothing is written ahead: the next block is made when the connection can take it, so a client
//! that does not read costs a place in the ring and no memory, and slows no other client.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::unfold;
use stacyvm_orchestrator::Subscription;
use stacyvm_types::Event;
use tokio::time::{Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::ndjson::write_json;

/// A comment, which clients skip and which shows proxies that the connection lives.
const HEARTBEAT: &[u8] = b": heartbeat\n\n";
/// About the length of one block, bytes.
const BLOCK_SIZE: usize = 256;

/// A subscription as it is written to a client.
struct EventFeed {
    subscription: Subscription,
    heartbeat: Interval,
    cut: std::pin::Pin<Box<WaitForCancellationFutureOwned>>,
}

/// The body that follows `subscription`. It ends when the server stops.
pub(crate) fn body(
    subscription: Subscription,
    heartbeat: Duration,
    cut: WaitForCancellationFutureOwned,
) -> Body {
    let mut heartbeat = interval_at(tokio::time::Instant::now() + heartbeat, heartbeat);
    // A heartbeat that was missed while the client did not read is not made up for.
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let feed = EventFeed {
        subscription,
        heartbeat,
        cut: Box::pin(cut),
    };
    Body::from_stream(unfold(feed, |mut feed| async move {
        let bytes = feed.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), feed))
    }))
}

impl EventFeed {
    async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            () = &mut self.cut => None,
            _ = self.heartbeat.tick() => Some(Bytes::from_static(HEARTBEAT)),
            batch = self.subscription.next() => batch.map(|batch| blocks(&batch)),
        }
    }
}

fn blocks(batch: &[Arc<Event>]) -> Bytes {
    let mut buffer = BytesMut::with_capacity(batch.len() * BLOCK_SIZE);
    for event in batch {
        buffer.put_slice(b"id: ");
        buffer.put_slice(event.id.to_string().as_bytes());
        buffer.put_slice(b"\ndata: ");
        write_json(&mut buffer, event.as_ref());
        buffer.put_slice(b"\n\n");
    }
    buffer.freeze()
}
