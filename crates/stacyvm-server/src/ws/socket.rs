//! The WebSocket of a session, and how it is closed.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::time::timeout;

/// How long a client may take to answer a close. Until then what it still sends is read: unread
/// bytes would turn the end of the connection into a reset, which discards the last frames.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection of a session.
pub(crate) trait Socket:
    Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin
{
}

impl<S> Socket for S where
    S: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Unpin
{
}

/// Sends frames, and waits until they are written.
pub(crate) async fn send_frames<const N: usize>(
    sink: &mut (impl Sink<Message, Error = axum::Error> + Unpin),
    frames: [Message; N],
) -> Result<(), axum::Error> {
    for frame in frames {
        sink.feed(frame).await?;
    }
    sink.flush().await
}

/// A close frame.
pub(crate) fn close(code: u16, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: Utf8Bytes::from_static(reason),
    }))
}

/// Reads on until the client has closed too.
pub(crate) async fn await_client_close(
    stream: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
) {
    let reading = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = timeout(CLOSE_TIMEOUT, reading).await;
}
