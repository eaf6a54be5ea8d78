//! Frames that wait to be written, and the writing.
//!
//! The outbox has two bounds: above the first, data has to wait; above the second, which only
//! answers that the other side does not read can reach, nothing more is read from it either.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;

use crate::frame::{HEADER_LEN, Header, Kind};

/// Unsent bytes above which data has to wait.
const HIGH_WATER: usize = 512 * 1024;
/// Unsent bytes above which nothing more is read, so that a flood of pings cannot queue answers
/// without bound.
const READ_STOP: usize = 2 * HIGH_WATER;
/// Frames handed to the socket in one call.
const FRAMES_PER_WRITE: usize = 16;

struct OutFrame {
    header: [u8; HEADER_LEN],
    header_sent: usize,
    payload: Bytes,
}

impl OutFrame {
    fn left(&self) -> usize {
        HEADER_LEN - self.header_sent + self.payload.len()
    }

    fn advance(&mut self, count: usize) -> usize {
        let of_header = count.min(HEADER_LEN - self.header_sent);
        self.header_sent += of_header;
        let of_payload = (count - of_header).min(self.payload.len());
        self.payload.advance(of_payload);
        of_header + of_payload
    }
}

pub(super) struct Outbox {
    /// The socket; none when the connection is lost.
    writer: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    frames: VecDeque<OutFrame>,
    bytes: usize,
    waiting_for_room: Vec<Waker>,
    driver: Waker,
}

impl Outbox {
    pub(super) fn new(writer: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        Self {
            writer: Some(writer),
            frames: VecDeque::new(),
            bytes: 0,
            waiting_for_room: Vec::new(),
            driver: Waker::noop().clone(),
        }
    }

    pub(super) fn set_driver(&mut self, waker: &Waker) {
        if !self.driver.will_wake(waker) {
            self.driver = waker.clone();
        }
    }

    pub(super) fn wake_driver(&self) {
        self.driver.wake_by_ref();
    }

    pub(super) fn is_overfull(&self) -> bool {
        self.bytes > READ_STOP
    }

    /// Waits until data may be sent.
    pub(super) fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.bytes <= HIGH_WATER {
            return Poll::Ready(());
        }
        // One task may ask many times while it waits.
        let waker = context.waker();
        if !self
            .waiting_for_room
            .iter()
            .any(|known| known.will_wake(waker))
        {
            self.waiting_for_room.push(waker.clone());
        }
        Poll::Pending
    }

    /// Drops the writer and all unsent frames.
    pub(super) fn close(&mut self) {
        self.writer = None;
        self.frames.clear();
        self.bytes = 0;
        self.wake_waiting();
    }

    pub(super) fn push(&mut self, kind: Kind, stream: u32, channel: u8, payload: Bytes) {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.push_frame(OutFrame {
            header: Header::new(kind, stream, channel, length).encode(),
            header_sent: 0,
            payload,
        });
    }

    /// Writes data at once if no other frame waits, and copies only the bytes that the socket does not
    /// take.
    pub(super) fn push_slice(&mut self, stream: u32, channel: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = Header::new(Kind::Data, stream, channel, length).encode();
        let mut sent = 0;
        if self.frames.is_empty()
            && let Some(writer) = &mut self.writer
        {
            let mut context = Context::from_waker(&self.driver);
            let slices = [IoSlice::new(&header), IoSlice::new(payload)];
            // An error shows again, and is dealt with, in `flush`.
            if let Poll::Ready(Ok(count)) =
                Pin::new(writer).poll_write_vectored(&mut context, &slices)
            {
                sent = count;
            }
        }
        if sent < HEADER_LEN + payload.len() {
            let header_sent = sent.min(HEADER_LEN);
            self.push_frame(OutFrame {
                header,
                header_sent,
                payload: Bytes::copy_from_slice(&payload[sent - header_sent..]),
            });
        }
    }

    fn push_frame(&mut self, frame: OutFrame) {
        self.bytes += frame.left();
        self.frames.push_back(frame);
    }

    /// Writes what the socket takes; `false` when the connection is dead.
    pub(super) fn flush(&mut self) -> bool {
        let Some(writer) = &mut self.writer else {
            return false;
        };
        let mut context = Context::from_waker(&self.driver);
        while !self.frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2 * FRAMES_PER_WRITE];
            let mut used = 0;
            for frame in self.frames.iter().take(FRAMES_PER_WRITE) {
                slices[used] = IoSlice::new(&frame.header[frame.header_sent..]);
                slices[used + 1] = IoSlice::new(&frame.payload);
                used += 2;
            }
            match Pin::new(&mut *writer).poll_write_vectored(&mut context, &slices[..used]) {
                Poll::Ready(Ok(mut count)) if count > 0 => {
                    self.bytes -= count;
                    while count > 0
                        && let Some(frame) = self.frames.front_mut()
                    {
                        count -= frame.advance(count);
                        if frame.left() == 0 {
                            self.frames.pop_front();
                        }
                    }
                }
                Poll::Pending => break,
                Poll::Ready(_) => return false,
            }
        }
        if self.frames.is_empty() {
            // Byte streams that collect what is written pass it on; an error shows at the next write.
            let _ = Pin::new(writer).poll_flush(&mut context);
            // Give the memory of a burst back.
            self.frames.shrink_to(FRAMES_PER_WRITE);
        }
        if self.bytes <= HIGH_WATER {
            self.wake_waiting();
        }
        true
    }

    fn wake_waiting(&mut self) {
        for waker in self.waiting_for_room.drain(..) {
            waker.wake();
        }
    }
}
