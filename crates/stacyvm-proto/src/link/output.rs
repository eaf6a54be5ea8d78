//! The writing half of either end: data into chunks, in order, a bounded amount at a time.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWrite;

use super::chunk::{self, MAX_DATA};
use super::kind;

/// Unwritten bytes above which no more data is taken.
const FULL: usize = 4 * (MAX_DATA + 1);
/// Unwritten bytes above which not even a beginning or an end is told.
const OVERFULL: usize = 2 * FULL;

/// What waits to be written to the pipe, and for which session.
#[derive(Debug)]
pub(super) struct Output<W> {
    write: W,
    pending: BytesMut,
    /// None between sessions.
    session: Option<u32>,
    /// Whether the session's writer waits for room: only its task may then ask the pipe, which
    /// remembers one waiting task.
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

    /// Begins a session after what is still being written. Without room for another chunk, because
    /// nobody reads, it begins without a word, and whoever asked for it asks again.
    pub(super) fn begin(&mut self, session: u32, kind: u8, data: &[u8]) {
        self.session = Some(session);
        self.writer_waits = false;
        self.tell(kind, session, data);
    }

    fn tell(&mut self, kind: u8, session: u32, data: &[u8]) {
        if self.pending.len() < OVERFULL {
            chunk::write(&mut self.pending, kind, session, data);
        }
    }

    /// Puts filler out, before a session.
    pub(super) fn fill(&mut self, count: usize) {
        self.pending.resize(self.pending.len() + count, 0);
    }

    /// Ends a session if it is the present one, and says so to the other side.
    pub(super) fn end(&mut self, session: u32) {
        if self.session == Some(session) {
            self.session = None;
            self.writer_waits = false;
            self.tell(kind::END, session, &[]);
        }
    }

    /// Ends a session that the other side knows to be over.
    pub(super) fn forget(&mut self, session: u32) {
        if self.session == Some(session) {
            self.session = None;
            self.writer_waits = false;
        }
    }

    /// A chunk without data, unless others wait and show the same.
    pub(super) fn show_life(&mut self, session: u32) {
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

    /// The same on behalf of the reader's task, where it may.
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

    /// Makes chunks of what there is room for.
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
                let (piece, rest) = left.split_at(room.min(left.len()));
                self.pending.extend_from_slice(piece);
                taken += piece.len();
                left = rest;
                if piece.len() == room {
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

/// An output that two halves share.
pub(super) type Shared<W> = Arc<Mutex<Output<W>>>;

/// Locks it; never across a wait.
pub(super) fn lock<W>(output: &Mutex<Output<W>>) -> MutexGuard<'_, Output<W>> {
    // A panic cannot have left a chunk half written: those are made whole under the lock.
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is said to the other end in one session. Its end is the end of the session.
#[derive(Debug)]
pub struct SessionWrite<W: AsyncWrite + Unpin> {
    pub(super) output: Shared<W>,
    pub(super) session: u32,
    /// How this end says so.
    pub(super) end: fn(&Shared<W>, u32),
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
        lock(&self.output).poll_send(self.session, context, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.output).poll_send(self.session, context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = lock(&self.output);
        if output.session != Some(self.session) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let flushed = output.poll_flush(context);
        output.writer_waits = flushed.is_pending();
        flushed
    }

    /// A session has one end for both directions.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = lock(&self.output);
        output.end(self.session);
        output.poll_flush(context)
    }
}
