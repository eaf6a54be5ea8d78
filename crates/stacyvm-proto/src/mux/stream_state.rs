//! The state of one stream: its channels, its received events, its end.

use std::collections::VecDeque;
use std::task::Waker;

use super::event::{End, Event};
use crate::frame::{CHANNELS, WINDOW};

/// Credit and ends of one channel of a stream.
pub(super) struct ChannelState {
    /// Bytes that this side may still send.
    pub(super) credit: u32,
    /// Bytes that the other side may still send.
    pub(super) window: u32,
    /// Bytes of credit that the receiver has released and that have not been given back yet.
    pub(super) released: u32,
    pub(super) sent_finish: bool,
    pub(super) got_finish: bool,
    /// The task that waits for credit.
    pub(super) sender: Option<Waker>,
}

/// One stream on this side of the connection.
pub(super) struct StreamState {
    pub(super) channels: [ChannelState; CHANNELS],
    pub(super) inbox: VecDeque<Event>,
    /// The task that waits for an event.
    pub(super) receiver: Option<Waker>,
    pub(super) end: Option<End>,
}

impl StreamState {
    pub(super) fn new() -> Self {
        Self {
            channels: std::array::from_fn(|_| ChannelState {
                credit: WINDOW,
                window: WINDOW,
                released: 0,
                sent_finish: false,
                got_finish: false,
                sender: None,
            }),
            inbox: VecDeque::new(),
            receiver: None,
            end: None,
        }
    }

    pub(super) fn close(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
        }
        self.wake_receiver();
        for channel in &mut self.channels {
            if let Some(waker) = channel.sender.take() {
                waker.wake();
            }
        }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.inbox.push_back(event);
        self.wake_receiver();
    }

    fn wake_receiver(&mut self) {
        if let Some(waker) = self.receiver.take() {
            waker.wake();
        }
    }
}
