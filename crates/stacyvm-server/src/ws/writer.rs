//! The writing side of a session.

use std::time::Duration;

use axum::extract::ws::{Message, close_code};
use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use stacyvm_orchestrator::ExecEvent;
use stacyvm_types::ExecId;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::frame_encoder::FrameEncoder;
use super::progress::Progress;
use super::socket::{Socket, close, send_frames};
use crate::error::Failure;

/// How often the server sends a ping.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Waiting events that go into one write.
const MAX_BATCH: usize = 8;

/// Writes the frames of the server.
pub(crate) struct SocketWriter<'a, S> {
    pub(crate) progress: &'a Progress,
    pub(crate) sink: &'a mut SplitSink<S, Message>,
    pub(crate) encoder: FrameEncoder,
    pub(crate) events: mpsc::Receiver<ExecEvent>,
    /// Failures of the reader, to be reported.
    pub(crate) failures: mpsc::Receiver<Failure>,
    /// How much of the input was taken, where that is acknowledged.
    pub(crate) taken: Option<watch::Receiver<u64>>,
}

impl<S: Socket> SocketWriter<'_, S> {
    /// Writes what the command does, until its end.
    ///
    /// # Errors
    /// When the client is gone.
    pub(crate) async fn run(&mut self, pid: u32, exec_id: ExecId) -> Result<(), axum::Error> {
        let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut frames: Vec<Message> = self.encoder.started(pid, exec_id).into_iter().collect();
        let mut end = None;
        let mut output = false;
        loop {
            for frame in frames.drain(..) {
                self.sink.feed(frame).await?;
            }
            if let Some((code, words)) = end {
                return send_frames(self.sink, [close(code, words)]).await;
            }
            self.sink.flush().await?;
            if std::mem::take(&mut output) {
                self.progress.made();
            }
            tokio::select! {
                biased;
                _ = pings.tick() => frames.push(Message::Ping(Bytes::new())),
                Some(failure) = self.failures.recv() => frames.push(FrameEncoder::failed(failure)),
                bytes = next_acknowledgement(&mut self.taken) => {
                    frames.push(self.encoder.acknowledged(bytes));
                }
                event = self.events.recv() => {
                    output = true;
                    end = self.encode(event, &mut frames);
                }
            }
        }
    }

    /// Encodes an event and those that wait behind it; gives the close after the last one.
    fn encode(
        &mut self,
        event: Option<ExecEvent>,
        frames: &mut Vec<Message>,
    ) -> Option<(u16, &'static str)> {
        let Some(mut event) = event else {
            frames.push(FrameEncoder::failed(Failure::internal(
                "the command was lost",
            )));
            return Some((close_code::ERROR, "the command was lost"));
        };
        loop {
            if self.encoder.event(event, frames) {
                return Some((close_code::NORMAL, ""));
            }
            if frames.len() >= MAX_BATCH {
                return None;
            }
            match self.events.try_recv() {
                Ok(next) => event = next,
                // Also at the end of the channel, which the next turn sees.
                Err(_) => return None,
            }
        }
    }
}

/// The number of bytes taken, when it has changed.
async fn next_acknowledgement(taken: &mut Option<watch::Receiver<u64>>) -> u64 {
    if let Some(receiver) = taken {
        if receiver.changed().await.is_ok() {
            return *receiver.borrow_and_update();
        }
        // The input has ended.
        *taken = None;
    }
    std::future::pending().await
}
