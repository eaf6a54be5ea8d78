//! The writing half of either end: it puts data into chunks, in order, with a bounded buffer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use tokio::io::AsyncWrite;

use super::chunk::{self, MAX_DATA};
use super::wire::kind;

/// Unwritten bytes above which no more data is taken.
const FULL: usize = 4 * (MAX_DATA + 1);
/// Unwritten bytes above which not even the beginning or the end of a session is written.
const OVERFULL: usize = 2 * FULL;

/// The bytes that wait to be written to the pipe, and the present session.
#[derive(Debug)]
pub(super) struct Output<W> {
    write: W,
    pending: BytesMut,
    /// The present session; none between sessions.
    session: Option<u32>,
    /// Whether the session's writer waits for room. Only its task may then poll the pipe, because the
    /// pipe remembers one waiting task.
    writer_waits: bool,
    failed: bool,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    pub(super) fn new(write: W) -> Self {
        Self {
            write,
            pending: BytesMut::new(),
            session: None,
            writer_waits: false,
            failed: false,
        }
    }

    /// Begins a session after the bytes that are still being written. If there is no room for another
    /// chunk, because the other end does not read, the session begins without telling it; a host
    /// that waits for the answer begins again.
    pub(super) fn begin(&mut self, session: u32, kind: u8, data: &[u8]) {
        self.session = Some(session);
        self.writer_waits = false;
        self.push_control(kind, session, data);
    }

    fn push_control(&mut self, kind: u8, session: u32, data: &[u8]) {
        if self.pending.len() < OVERFULL {
            chunk::write(&mut self.pending, kind, session, data);
        }
    }

    /// Writes filler, before a session.
    pub(super) fn fill(&mut self, count: usize) {
        self.pending.resize(self.pending.len() + count, 0);
    }

    /// Ends a session if it is the present one, and tells the other side.
    pub(super) fn end(&mut self, session: u32) {
        if self.session == Some(session) {
            self.session = None;
            self.writer_waits = false;
            self.push_control(kind::END, session, &[]);
        }
    }

    /// Ends a session without telling the other side, which knows that it is over.
    pub(super) fn forget(&mut self, session: u32) {
        if self.session == Some(session) {
            self.session = None;
            self.writer_waits = false;
        }
    }

    /// Writes a sign of life, unless other chunks wait to be written anyway.
    pub(super) fn keep_alive(&mut self, session: u32) {
        if self.session == Some(session) && self.pending.is_empty() {
            chunk::write(&mut self.pending, kind::ALIVE, session, &[]);
        }
    }

    /// Writes what the pipe takes.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let wrote = Pin::new(&mut self.write).poll_write(context, &self.pending);
            match ready!(wrote) {
                Ok(0) | Err(_) => {
                    self.failed = true;
                    self.pending.clear();
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Ok(count) => self.pending.advance(count),
            }
        }
        // Gives the memory of a burst back.
        if self.pending.capacity() > FULL {
            self.pending = BytesMut::new();
        }
        Pin::new(&mut self.write).poll_flush(context)
    }

    /// Writes what the pipe takes from the reader's task, unless the writer's task waits for the pipe.
    pub(super) fn flush_for_reader(&mut self, context: &mut Context<'_>) {
        if !self.writer_waits && !self.pending.is_empty() {
            // A failure shows at the next read or write.
            let _ = self.poll_flush(context);
        }
    }

    fn poll_send(
        &mut self,
        session: u32,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.failed || self.session != Some(session) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.pending.len() >= FULL {
            self.writer_waits = true;
            ready!(self.poll_flush(context))?;
        }
        let count = self.take(session, slices);
        self.writer_waits = self.poll_flush(context)?.is_pending();
        Poll::Ready(Ok(count))
    }

    /// Puts as much as there is room for into chunks.
    fn take(&mut self, session: u32, slices: &[IoSlice<'_>]) -> usize {
        let mut taken = 0;
        let mut start = None;
        for slice in slices {
            let mut left: &[u8] = slice;
            while !left.is_empty() && self.pending.len() < FULL {
                let from = *start.get_or_insert_with(|| {
                    let from = self.pending.len();
                    chunk::begin(&mut self.pending, kind::DATA, session);
                    from
                });
                let room = MAX_DATA - (self.pending.len() - from - chunk::HEADER_LEN);
                let (part, rest) = left.split_at(room.min(left.len()));
                self.pending.extend_from_slice(part);
                taken += part.len();
                left = rest;
                if part.len() == room {
                    chunk::seal(&mut self.pending, from);
                    start = None;
                }
            }
        }
        if let Some(from) = start {
            chunk::seal(&mut self.pending, from);
        }
        taken
    }
}

/// An output that the two halves of a session share.
pub(super) type SharedOutput<W> = Arc<Mutex<Output<W>>>;

/// The writing half of one session. Dropping it ends the session.
#[derive(Debug)]
pub struct SessionWrite<W: AsyncWrite + Unpin> {
    pub(super) output: SharedOutput<W>,
    pub(super) session: u32,
    /// How this end of the link ends a session.
    pub(super) end: fn(&SharedOutput<W>, u32),
}

impl<W: AsyncWrite + Unpin> Drop for SessionWrite<W> {
    fn drop(&mut self) {
        (self.end)(&self.output, self.session);
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for SessionWrite<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.output
            .lock()
            .poll_send(self.session, context, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.output.lock().poll_send(self.session, context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = self.output.lock();
        if output.session != Some(self.session) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let flushed = output.poll_flush(context);
        output.writer_waits = flushed.is_pending();
        flushed
    }

    /// A session has one end for both directions.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = self.output.lock();
        output.end(self.session);
        output.poll_flush(context)
    }
}
