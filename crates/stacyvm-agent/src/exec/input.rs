//! A command's input: bytes that wait until its pipe or terminal takes them.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, BorrowedFd};

use bytes::{Buf as _, Bytes};
use tokio::net::unix::pipe;

use super::output::is_temporary;
use crate::pty::END_OF_INPUT;

/// Where input goes.
#[derive(Debug)]
pub(super) enum Input {
    /// Nowhere: the command has no input, or it has been closed.
    None,
    /// To a pipe.
    Pipe(InputQueue),
    /// To a terminal.
    Terminal(InputQueue),
}

/// Input that waits to be written.
#[derive(Debug)]
pub(super) struct InputQueue {
    target: pipe::Sender,
    /// The unwritten bytes of each chunk, and the length of the whole chunk.
    waiting: VecDeque<(Bytes, usize)>,
    /// Whether nothing more comes.
    finish: bool,
}

impl InputQueue {
    pub(super) fn new(target: pipe::Sender) -> Self {
        Self {
            target,
            waiting: VecDeque::new(),
            finish: false,
        }
    }
}

impl Input {
    /// The terminal, if it is one.
    pub(super) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Terminal(queue) => Some(queue.target.as_fd()),
            Self::None | Self::Pipe(_) => None,
        }
    }

    /// Takes bytes. If they will never be used, their number is returned at once.
    pub(super) fn push(&mut self, bytes: Bytes) -> Option<usize> {
        let length = bytes.len();
        match self {
            Self::Pipe(queue) | Self::Terminal(queue) if !queue.finish => {
                queue.waiting.push_back((bytes, length));
                None
            }
            _ => Some(length),
        }
    }

    /// Ends the input: once the waiting bytes are written, a pipe is closed and a terminal gets the
    /// end character.
    pub(super) fn finish(&mut self) {
        match self {
            Self::None => {}
            Self::Pipe(queue) if queue.waiting.is_empty() => *self = Self::None,
            Self::Pipe(queue) => queue.finish = true,
            Self::Terminal(queue) => {
                if !queue.finish {
                    queue
                        .waiting
                        .push_back((Bytes::from_static(END_OF_INPUT), 0));
                    queue.finish = true;
                }
            }
        }
    }

    /// Whether it takes no more bytes.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::None => true,
            Self::Pipe(queue) | Self::Terminal(queue) => queue.finish,
        }
    }

    /// Whether bytes wait to be written.
    pub(super) fn wants(&self) -> bool {
        match self {
            Self::None => false,
            Self::Pipe(queue) | Self::Terminal(queue) => !queue.waiting.is_empty(),
        }
    }

    /// Writes one waiting chunk and answers how long it was. The future may be dropped; nothing is
    /// lost.
    pub(super) async fn feed(&mut self) -> usize {
        let (Self::Pipe(queue) | Self::Terminal(queue)) = self else {
            return std::future::pending().await;
        };
        loop {
            let Some((bytes, length)) = queue.waiting.front_mut() else {
                return std::future::pending().await;
            };
            let length = *length;
            let written = match queue.target.writable().await {
                Ok(()) => queue.target.try_write(bytes),
                Err(error) => Err(error),
            };
            match written {
                Ok(count) => {
                    bytes.advance(count);
                    if !bytes.is_empty() {
                        continue;
                    }
                    queue.waiting.pop_front();
                    if queue.finish && queue.waiting.is_empty() && matches!(self, Self::Pipe(_)) {
                        *self = Self::None;
                    }
                    return length;
                }
                Err(error) if is_temporary(&error) => {}
                // The reading end is closed.
                Err(_) => return self.give_up(),
            }
        }
    }

    /// Drops the waiting bytes and all later ones; answers how many waited.
    fn give_up(&mut self) -> usize {
        match std::mem::replace(self, Self::None) {
            Self::None => 0,
            Self::Pipe(queue) => queue.waiting.iter().map(|(_, length)| length).sum(),
            Self::Terminal(mut queue) => {
                let waited = queue.waiting.drain(..).map(|(_, length)| length).sum();
                queue.finish = true;
                // The terminal can still be resized.
                *self = Self::Terminal(queue);
                waited
            }
        }
    }
}
