//! The state of one connection: its streams and their credit.
//!
//! Everything here is synchronous and runs under one short lock; tasks that wait leave their wakers
//! here. Every queue has a bound: received frames by the credit that this side gave, unsent frames
//! by the outbox.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::{mpsc, oneshot};

use super::event::{End, Event, MAX_STREAMS, MuxError, Side};
use super::outbox::Outbox;
use super::stream_state::StreamState;
use crate::frame::{FRAME_COST, FrameError, Header, Kind, MAX_CHUNK, WINDOW};

/// Credit is given back once at least this much has been released, bytes.
const MIN_RELEASE: u32 = WINDOW / 4;
/// Pings that may wait for their answers at once.
const MAX_PINGS: usize = 64;

pub(crate) struct State {
    side: Side,
    streams: HashMap<u32, StreamState>,
    next_id: u32,
    opened: mpsc::UnboundedSender<(u32, Bytes)>,
    pings: VecDeque<(u64, oneshot::Sender<()>)>,
    next_ping: u64,
    frames_received: u64,
    outbox: Outbox,
    lost: bool,
}

impl State {
    pub(crate) fn new(
        writer: Box<dyn AsyncWrite + Send + Unpin>,
        side: Side,
        opened: mpsc::UnboundedSender<(u32, Bytes)>,
    ) -> Self {
        Self {
            side,
            streams: HashMap::new(),
            next_id: 0,
            opened,
            pings: VecDeque::new(),
            next_ping: 0,
            frames_received: 0,
            outbox: Outbox::new(writer),
            lost: false,
        }
    }

    // ---- the connection ----

    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    pub(crate) fn frames_received(&self) -> u64 {
        self.frames_received
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn set_driver(&mut self, waker: &Waker) {
        self.outbox.set_driver(waker);
    }

    pub(crate) fn wake_driver(&self) {
        self.outbox.wake_driver();
    }

    /// Whether reading has to wait until some unsent bytes are written.
    pub(crate) fn must_not_read(&self) -> bool {
        self.outbox.is_overfull()
    }

    pub(crate) fn lose(&mut self) {
        self.lost = true;
        self.outbox.close();
        self.pings.clear();
        for stream in self.streams.values_mut() {
            stream.close(End::Lost);
        }
        // The receiving half sees its end when the sending half is replaced.
        self.opened = mpsc::unbounded_channel().0;
    }

    pub(crate) fn ping(&mut self, answered: oneshot::Sender<()>) -> Result<(), MuxError> {
        if self.lost {
            return Err(MuxError::Lost);
        }
        if self.pings.len() >= MAX_PINGS {
            self.pings.pop_front();
        }
        self.next_ping += 1;
        self.pings.push_back((self.next_ping, answered));
        let payload = Bytes::copy_from_slice(&self.next_ping.to_le_bytes());
        self.enqueue(Kind::Ping, 0, 0, payload);
        self.flush();
        Ok(())
    }

    // ---- streams, from our side ----

    pub(crate) fn open(&mut self, request: Bytes) -> Result<u32, MuxError> {
        if self.lost {
            return Err(MuxError::Lost);
        }
        if self.streams.len() >= MAX_STREAMS {
            return Err(MuxError::TooManyStreams);
        }
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if self.next_id != 0 && !self.streams.contains_key(&self.next_id) {
                break;
            }
        }
        self.streams.insert(self.next_id, StreamState::new());
        self.enqueue(Kind::Open, self.next_id, 0, request);
        self.flush();
        Ok(self.next_id)
    }

    /// How many bytes may be sent on a channel now, at most one chunk.
    pub(crate) fn poll_reserve(
        &mut self,
        id: u32,
        channel: u8,
        context: &mut Context<'_>,
    ) -> Poll<Result<usize, MuxError>> {
        let lost = self.lost;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(MuxError::Ended));
        };
        if lost {
            return Poll::Ready(Err(MuxError::Lost));
        }
        let flow = &mut stream.channels[channel as usize];
        if stream.end.is_some() || flow.sent_finish {
            return Poll::Ready(Err(MuxError::Ended));
        }
        if self.outbox.poll_room(context).is_pending() {
            return Poll::Pending;
        }
        if flow.credit > FRAME_COST {
            return Poll::Ready(Ok(((flow.credit - FRAME_COST) as usize).min(MAX_CHUNK)));
        }
        flow.sender = Some(context.waker().clone());
        Poll::Pending
    }

    /// Waits until a message of `length` bytes may be sent.
    pub(crate) fn poll_room(
        &mut self,
        id: u32,
        length: usize,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), MuxError>> {
        let Poll::Ready(reserved) = self.poll_reserve(id, 0, context) else {
            return Poll::Pending;
        };
        if let Err(error) = reserved {
            return Poll::Ready(Err(error));
        }
        match self
            .streams
            .get_mut(&id)
            .map(|stream| &mut stream.channels[0])
        {
            Some(flow) if (flow.credit as usize) < length + FRAME_COST as usize => {
                flow.sender = Some(context.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Takes credit for a frame that is about to be sent.
    fn charge(&mut self, id: u32, channel: u8, length: usize) -> Result<(), MuxError> {
        if self.lost {
            return Err(MuxError::Lost);
        }
        let stream = self.streams.get_mut(&id).ok_or(MuxError::Ended)?;
        let flow = &mut stream.channels[channel as usize];
        if stream.end.is_some() || flow.sent_finish {
            return Err(MuxError::Ended);
        }
        let cost = u32::try_from(length)
            .unwrap_or(u32::MAX)
            .saturating_add(FRAME_COST);
        flow.credit = flow.credit.checked_sub(cost).ok_or(MuxError::TooLarge)?;
        Ok(())
    }

    pub(crate) fn send(
        &mut self,
        id: u32,
        kind: Kind,
        channel: u8,
        payload: Bytes,
    ) -> Result<(), MuxError> {
        self.charge(id, channel, payload.len())?;
        self.enqueue(kind, id, channel, payload);
        self.flush();
        Ok(())
    }

    /// Like `send`, but copies only what the socket does not take at once.
    pub(crate) fn send_slice(
        &mut self,
        id: u32,
        channel: u8,
        payload: &[u8],
    ) -> Result<(), MuxError> {
        self.charge(id, channel, payload.len())?;
        self.outbox.push_slice(id, channel, payload);
        self.flush();
        Ok(())
    }

    /// Sends the last message of a stream and its end in one go.
    pub(crate) fn send_last(&mut self, id: u32, message: Bytes) -> Result<(), MuxError> {
        self.charge(id, 0, message.len())?;
        self.enqueue(Kind::Message, id, 0, message);
        self.finish(id, 0)
    }

    pub(crate) fn finish(&mut self, id: u32, channel: u8) -> Result<(), MuxError> {
        if self.lost {
            return Err(MuxError::Lost);
        }
        let stream = self.streams.get_mut(&id).ok_or(MuxError::Ended)?;
        let flow = &mut stream.channels[channel as usize];
        if stream.end.is_some() || flow.sent_finish {
            return Err(MuxError::Ended);
        }
        flow.sent_finish = true;
        if channel == 0 && self.side == Side::Accepting {
            stream.close(End::Finished);
        }
        self.enqueue(Kind::Finish, id, channel, Bytes::new());
        self.flush();
        Ok(())
    }

    /// Gives back the credit of received data, or of a received message.
    pub(crate) fn release(&mut self, id: u32, channel: u8, length: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let flow = &mut stream.channels[channel as usize];
        let cost = u32::try_from(length)
            .unwrap_or(u32::MAX)
            .saturating_add(FRAME_COST);
        // Never more than was taken, whatever the caller says.
        flow.released = flow.released.saturating_add(cost).min(WINDOW - flow.window);
        if flow.released < MIN_RELEASE || flow.got_finish || stream.end.is_some() {
            return;
        }
        let credit = std::mem::take(&mut flow.released);
        flow.window += credit;
        self.enqueue(
            Kind::Credit,
            id,
            channel,
            Bytes::copy_from_slice(&credit.to_le_bytes()),
        );
        self.flush();
    }

    pub(crate) fn poll_receive(&mut self, id: u32, context: &mut Context<'_>) -> Poll<Event> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Event::Closed(End::Lost));
        };
        if let Some(event) = stream.inbox.pop_front() {
            if let Event::Message(message) = &event {
                let length = message.len();
                self.release(id, 0, length);
            }
            return Poll::Ready(event);
        }
        if let Some(end) = stream.end {
            return Poll::Ready(Event::Closed(end));
        }
        stream.receiver = Some(context.waker().clone());
        Poll::Pending
    }

    /// Removes a stream whose last handle was dropped, and resets it if it has not ended.
    pub(crate) fn forget(&mut self, id: u32) {
        if let Some(stream) = self.streams.remove(&id)
            && stream.end.is_none()
        {
            self.enqueue(Kind::Reset, id, 0, Bytes::from_static(&[0; 4]));
            self.flush();
        }
    }

    // ---- frames from the other side ----

    pub(crate) fn receive(&mut self, header: Header, payload: Bytes) -> Result<(), FrameError> {
        self.frames_received = self.frames_received.wrapping_add(1);
        let Some(kind) = Kind::from_number(header.kind) else {
            return Ok(());
        };
        match kind {
            Kind::Hello => return Err(FrameError::Unexpected(kind)),
            Kind::Open => return self.receive_open(header.stream, payload),
            Kind::Ping => {
                self.enqueue(Kind::Pong, 0, 0, payload);
                return Ok(());
            }
            Kind::Pong => {
                let number = payload.as_ref().try_into().map_or(0, u64::from_le_bytes);
                if let Some(at) = self.pings.iter().position(|(id, _)| *id == number)
                    && let Some((_, answered)) = self.pings.remove(at)
                {
                    // The caller may have stopped waiting.
                    let _ = answered.send(());
                }
                return Ok(());
            }
            Kind::Message | Kind::Data | Kind::Credit | Kind::Finish | Kind::Reset => {}
        }
        let side = self.side;
        let channel = header.channel;
        // Frames of a stream that is over on this side may still be under way.
        let Some(stream) = self.streams.get_mut(&header.stream) else {
            return Ok(());
        };
        if stream.end.is_some() {
            return Ok(());
        }
        let flow = &mut stream.channels[channel as usize];
        match kind {
            Kind::Message | Kind::Data => {
                if (kind == Kind::Message) != (channel == 0) {
                    return Err(FrameError::Channel(channel));
                }
                if flow.got_finish {
                    return Err(FrameError::Unexpected(kind));
                }
                flow.window = flow
                    .window
                    .checked_sub(header.length + FRAME_COST)
                    .ok_or(FrameError::Credit(channel))?;
                stream.push(if channel == 0 {
                    Event::Message(payload)
                } else {
                    Event::Data(channel, payload)
                });
            }
            Kind::Credit => {
                let credit = payload.as_ref().try_into().map_or(0, u32::from_le_bytes);
                flow.credit = flow.credit.saturating_add(credit).min(WINDOW);
                if let Some(waker) = flow.sender.take() {
                    waker.wake();
                }
            }
            Kind::Finish if channel == 0 && side == Side::Connecting => {
                stream.close(End::Finished);
            }
            Kind::Finish => {
                if !flow.got_finish {
                    flow.got_finish = true;
                    stream.push(Event::Finished(channel));
                }
            }
            Kind::Reset => stream.close(End::Reset),
            Kind::Hello | Kind::Open | Kind::Ping | Kind::Pong => {}
        }
        Ok(())
    }

    fn receive_open(&mut self, id: u32, request: Bytes) -> Result<(), FrameError> {
        if self.side == Side::Connecting || id == 0 || self.streams.contains_key(&id) {
            return Err(FrameError::Unexpected(Kind::Open));
        }
        if self.streams.len() >= MAX_STREAMS {
            self.enqueue(Kind::Reset, id, 0, Bytes::from_static(&[0; 4]));
            return Ok(());
        }
        self.streams.insert(id, StreamState::new());
        // The queue is closed only when the connection is about to end.
        let _ = self.opened.send((id, request));
        Ok(())
    }

    // ---- writing ----

    fn enqueue(&mut self, kind: Kind, stream: u32, channel: u8, payload: Bytes) {
        if !self.lost {
            self.outbox.push(kind, stream, channel, payload);
        }
    }

    /// Writes what the socket takes; the driver is woken when it takes more.
    pub(crate) fn flush(&mut self) {
        if !self.lost && !self.outbox.flush() {
            // The driver sees the dead connection too and tells every stream.
            self.lost = true;
            self.outbox.wake_driver();
        }
    }
}
