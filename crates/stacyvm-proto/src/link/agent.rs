//! The agent's end: one session after the other on the pipes that it was started with.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::chunk::{Chunk, Damaged};
use super::input::{Input, fill_buffer};
use super::output::{Output, SessionWrite, SharedOutput};
use super::wire::{NONCE_LEN, SILENCE_TIMEOUT, kind};

/// A pair of pipes on which hosts come and go.
#[derive(Debug)]
pub struct Link<R, W> {
    input: Arc<Mutex<AgentInput<R>>>,
    output: SharedOutput<W>,
}

#[derive(Debug)]
struct AgentInput<R> {
    pipe: Input<R>,
    /// The present session; chunks of others are skipped.
    session: Option<u32>,
    /// The next session and its nonce, which has ended the one before and is not accepted yet.
    next: Option<(u32, Bytes)>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Link<R, W> {
    /// Serves on these pipes. Neither may block.
    pub fn new(read: R, write: W) -> Self {
        Self {
            input: Arc::new(Mutex::new(AgentInput {
                pipe: Input::new(read),
                session: None,
                next: None,
            })),
            output: Arc::new(Mutex::new(Output::new(write))),
        }
    }

    /// Waits for the next host's session; the session before ends.
    ///
    /// # Errors
    /// When the pipes are broken or closed, after which no host can come.
    pub async fn accept(&mut self) -> io::Result<(SessionRead<R, W>, SessionWrite<W>)> {
        if let Some(before) = self.input.lock().session.take() {
            self.output.lock().end(before);
        }
        let (session, nonce) = poll_fn(|context| {
            let mut input = self.input.lock();
            let next = loop {
                if let Some(next) = input.next.take() {
                    break next;
                }
                match input.pipe.poll_chunk(context)? {
                    Poll::Ready(chunk) => input.next = chunk.ok().and_then(beginning),
                    Poll::Pending => {
                        self.output.lock().flush_for_reader(context);
                        return Poll::Pending;
                    }
                }
            };
            input.session = Some(next.0);
            Poll::Ready(Ok::<_, io::Error>(next))
        })
        .await?;
        poll_fn(|context| {
            let mut output = self.output.lock();
            output.begin(session, kind::BEGUN, &nonce);
            // What the pipe does not take now is written when the session is read.
            output.flush_for_reader(context);
            Poll::Ready(())
        })
        .await;
        let read = SessionRead {
            input: self.input.clone(),
            output: self.output.clone(),
            session,
            left: Bytes::new(),
            silent: Box::pin(sleep(SILENCE_TIMEOUT)),
        };
        let output = self.output.clone();
        let write = SessionWrite {
            output,
            session,
            end: |output, session| output.lock().end(session),
        };
        Ok((read, write))
    }
}

/// The session that a chunk begins, and its nonce.
fn beginning(chunk: Chunk) -> Option<(u32, Bytes)> {
    let begins = chunk.kind == kind::BEGIN && chunk.data.len() == NONCE_LEN;
    begins.then_some((chunk.session, chunk.data))
}

/// The reading half of a session; it ends with the session.
#[derive(Debug)]
pub struct SessionRead<R, W: AsyncWrite + Unpin> {
    input: Arc<Mutex<AgentInput<R>>>,
    output: SharedOutput<W>,
    session: u32,
    left: Bytes,
    silent: Pin<Box<Sleep>>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> AsyncRead for SessionRead<R, W> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut input = this.input.lock();
        loop {
            if !this.left.is_empty() {
                fill_buffer(&mut this.left, buffer);
                return Poll::Ready(Ok(()));
            }
            if input.session != Some(this.session) {
                return Poll::Ready(Ok(()));
            }
            match input.pipe.poll_chunk(context) {
                Poll::Ready(Ok(chunk)) => {
                    // Only what is read counts as silence: a sandbox that stood still has a full
                    // pipe before it.
                    let is_ours = chunk.as_ref().is_ok_and(|it| it.session == this.session);
                    if is_ours {
                        this.silent.as_mut().reset(Instant::now() + SILENCE_TIMEOUT);
                    }
                    this.left = input.receive(chunk, this.session, &this.output);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if this.silent.as_mut().poll(context).is_ready() {
                        input.session = None;
                        this.output.lock().end(this.session);
                        continue;
                    }
                    this.output.lock().flush_for_reader(context);
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<R> AgentInput<R> {
    /// Processes a chunk that came during a session, and returns the session's data in it.
    fn receive<W: AsyncWrite + Unpin>(
        &mut self,
        chunk: Result<Chunk, Damaged>,
        session: u32,
        output: &SharedOutput<W>,
    ) -> Bytes {
        match chunk {
            Ok(chunk) if chunk.kind == kind::BEGIN => {
                if let Some(next) = beginning(chunk) {
                    self.next = Some(next);
                    self.session = None;
                    output.lock().forget(session);
                }
            }
            Ok(chunk) if chunk.session == session => match chunk.kind {
                kind::DATA => return chunk.data,
                kind::END => {
                    self.session = None;
                    output.lock().forget(session);
                }
                _ => {}
            },
            Ok(_) => {}
            Err(Damaged) => {
                self.session = None;
                output.lock().end(session);
            }
        }
        Bytes::new()
    }
}

impl<R, W: AsyncWrite + Unpin> Drop for SessionRead<R, W> {
    fn drop(&mut self) {
        self.output.lock().end(self.session);
    }
}
