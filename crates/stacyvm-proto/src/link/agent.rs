//! The agent's end: one session after the other on the pipes it was born with.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::chunk::{Chunk, Damaged};
use super::input::{Input, give};
use super::output::{Output, SessionWrite, Shared, lock};
use super::{NONCE_LEN, SILENT_AFTER, kind};

/// A pair of pipes on which hosts come and go.
#[derive(Debug)]
pub struct Link<R, W> {
    input: Arc<Mutex<AgentInput<R>>>,
    output: Shared<W>,
}

#[derive(Debug)]
struct AgentInput<R> {
    pipe: Input<R>,
    /// Whose chunks count.
    session: Option<u32>,
    /// The session that ended the one before, and that nobody has accepted yet.
    next: Option<(u32, Bytes)>,
}

fn locked<R>(input: &Mutex<AgentInput<R>>) -> MutexGuard<'_, AgentInput<R>> {
    input.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Link<R, W> {
    /// Takes the pipes over. Neither may block.
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

    /// The next host; what was left of the one before ends.
    ///
    /// # Errors
    /// When the pipes are broken or closed, after which nobody can ever come.
    pub async fn accept(&mut self) -> io::Result<(SessionRead<R, W>, SessionWrite<W>)> {
        if let Some(before) = locked(&self.input).session.take() {
            lock(&self.output).end(before);
        }
        let (session, nonce) = poll_fn(|context| {
            let mut input = locked(&self.input);
            let next = loop {
                if let Some(next) = input.next.take() {
                    break next;
                }
                match input.pipe.poll_chunk(context)? {
                    Poll::Ready(chunk) => input.next = chunk.ok().and_then(beginning),
                    Poll::Pending => {
                        lock(&self.output).flush_for_reader(context);
                        return Poll::Pending;
                    }
                }
            };
            input.session = Some(next.0);
            Poll::Ready(Ok::<_, io::Error>(next))
        })
        .await?;
        poll_fn(|context| {
            let mut output = lock(&self.output);
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
            silent: Box::pin(sleep(SILENT_AFTER)),
        };
        let output = self.output.clone();
        let write = SessionWrite {
            output,
            session,
            end: |output, session| lock(output).end(session),
        };
        Ok((read, write))
    }
}

/// The session that a chunk begins, and its nonce.
fn beginning(chunk: Chunk) -> Option<(u32, Bytes)> {
    let begins = chunk.kind == kind::BEGIN && chunk.data.len() == NONCE_LEN;
    begins.then_some((chunk.session, chunk.data))
}

/// What one host says; ends with its session.
#[derive(Debug)]
pub struct SessionRead<R, W: AsyncWrite + Unpin> {
    input: Arc<Mutex<AgentInput<R>>>,
    output: Shared<W>,
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
        let mut input = locked(&this.input);
        loop {
            if !this.left.is_empty() {
                give(&mut this.left, buffer);
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
                        this.silent.as_mut().reset(Instant::now() + SILENT_AFTER);
                    }
                    this.left = input.receive(chunk, this.session, &this.output);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if this.silent.as_mut().poll(context).is_ready() {
                        input.session = None;
                        lock(&this.output).end(this.session);
                        continue;
                    }
                    lock(&this.output).flush_for_reader(context);
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<R> AgentInput<R> {
    /// Deals with a chunk that came during a session, and answers the session's data in it.
    fn receive<W: AsyncWrite + Unpin>(
        &mut self,
        chunk: Result<Chunk, Damaged>,
        session: u32,
        output: &Shared<W>,
    ) -> Bytes {
        match chunk {
            Ok(chunk) if chunk.kind == kind::BEGIN => {
                if let Some(next) = beginning(chunk) {
                    self.next = Some(next);
                    self.session = None;
                    lock(output).forget(session);
                }
            }
            Ok(chunk) if chunk.session == session => match chunk.kind {
                kind::DATA => return chunk.data,
                kind::END => {
                    self.session = None;
                    lock(output).forget(session);
                }
                _ => {}
            },
            Ok(_) => {}
            Err(Damaged) => {
                self.session = None;
                lock(output).end(session);
            }
        }
        Bytes::new()
    }
}

impl<R, W: AsyncWrite + Unpin> Drop for SessionRead<R, W> {
    fn drop(&mut self) {
        lock(&self.output).end(self.session);
    }
}
