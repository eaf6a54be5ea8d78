//! The host's end: one session on a pair of pipes.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::chunk::{self, MAX_CHUNK_LEN};
use super::input::{Input, fill_buffer};
use super::output::{Output, SessionWrite, SharedOutput};
use super::wire::{ALIVE_INTERVAL, NONCE_LEN, kind};

/// Begins a session: bytes of earlier sessions are skipped, and the agent ends those. The nonce must
/// be new and random. The caller sets the deadline, because the agent may never answer.
///
/// # Errors
/// When the pipes are broken or closed.
pub async fn connect<R, W>(
    read: R,
    write: W,
    nonce: [u8; NONCE_LEN],
) -> io::Result<(HostRead<R, W>, SessionWrite<W>)>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let session = u32::from_le_bytes([nonce[0], nonce[1], nonce[2], nonce[3]]);
    let mut answer = BytesMut::new();
    chunk::write(&mut answer, kind::BEGUN, session, &nonce);
    let mut input = Input::new(read);
    let mut output = Output::new(write);
    output.fill(MAX_CHUNK_LEN);
    output.begin(session, kind::BEGIN, &nonce);
    poll_fn(|context| {
        // The agent may have to be read before it reads on.
        let mut written = output.poll_flush(context)?;
        loop {
            let found = position(&input.decoder.buffer, &answer);
            if let Some(at) = found {
                input.decoder.buffer.advance(at + answer.len());
                return Poll::Ready(Ok::<_, io::Error>(()));
            }
            let kept = answer.len() - 1;
            let useless = input.decoder.buffer.len().saturating_sub(kept);
            input.decoder.buffer.advance(useless);
            match input.poll_more(context)? {
                Poll::Ready(()) => {}
                Poll::Pending => break,
            }
            if written.is_pending() {
                written = output.poll_flush(context)?;
            }
        }
        Poll::Pending
    })
    .await?;
    let output = Arc::new(Mutex::new(output));
    let read = HostRead {
        input,
        output: output.clone(),
        session,
        left: Bytes::new(),
        over: false,
        alive: Box::pin(sleep(ALIVE_INTERVAL)),
    };
    let write = SessionWrite {
        output,
        session,
        end: give_up,
    };
    Ok((read, write))
}

/// The position of `wanted` in `bytes`.
fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// The reading half of a session; it ends with the session. It must be polled, because polling also
/// sends the signs of life.
#[derive(Debug)]
pub struct HostRead<R, W: AsyncWrite + Unpin> {
    input: Input<R>,
    output: SharedOutput<W>,
    session: u32,
    left: Bytes,
    over: bool,
    alive: Pin<Box<Sleep>>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> AsyncRead for HostRead<R, W> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.left.is_empty() {
                fill_buffer(&mut this.left, buffer);
                return Poll::Ready(Ok(()));
            }
            if this.over {
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(chunk) = this.input.poll_chunk(context)? else {
                break;
            };
            match chunk {
                Ok(chunk) if chunk.session == this.session => match chunk.kind {
                    kind::DATA => this.left = chunk.data,
                    kind::END => this.finish(),
                    _ => {}
                },
                // Another host has taken the agent over.
                Ok(chunk) if chunk.kind == kind::BEGUN => this.finish(),
                Ok(_) => {}
                Err(_) => {
                    this.output.lock().end(this.session);
                    this.over = true;
                }
            }
        }
        let mut output = this.output.lock();
        while this.alive.as_mut().poll(context).is_ready() {
            output.keep_alive(this.session);
            this.alive.as_mut().reset(Instant::now() + ALIVE_INTERVAL);
        }
        output.flush_for_reader(context);
        Poll::Pending
    }
}

impl<R, W: AsyncWrite + Unpin> HostRead<R, W> {
    fn finish(&mut self) {
        self.output.lock().forget(self.session);
        self.over = true;
    }
}

impl<R, W: AsyncWrite + Unpin> Drop for HostRead<R, W> {
    fn drop(&mut self) {
        give_up(&self.output, self.session);
    }
}

/// Ends the session and tells the agent if the pipe takes the bytes at once; otherwise the agent ends
/// it after its timeout.
fn give_up<W: AsyncWrite + Unpin>(output: &SharedOutput<W>, session: u32) {
    let mut output = output.lock();
    output.end(session);
    let _ = output.poll_flush(&mut Context::from_waker(Waker::noop()));
}
