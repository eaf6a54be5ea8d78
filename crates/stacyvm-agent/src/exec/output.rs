//! A command's input and output on the agent's side.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use rustix::io::Errno;
use stacyvm_proto::MAX_CHUNK;
use stacyvm_proto::mux::Sender;
use tokio::net::unix::pipe;

use super::record::Record;
use crate::agent::{Agent, lock, scratch};
use crate::pty::END_OF_INPUT;

/// What a pipe is enlarged to once a command has filled it.
const LARGE_PIPE: usize = 256 * 1024;
/// More than a terminal can hold: what comes after so much is not the command's word any more.
const TERMINAL_REST: usize = 256 * 1024;
/// How long the kernel may take for the last words of a terminal: it hands them over in the
/// background.
const TERMINAL_PATIENCE: Duration = Duration::from_millis(500);

fn wait_again(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Where output goes beside the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sink<'a> {
    /// Nowhere: nobody listens.
    Nobody,
    /// To the stream that started the command; it waits for the peer.
    Peer(&'a Sender),
    /// To a record that others read.
    Record(&'a Record),
}

impl Sink<'_> {
    /// Waits until something may be put there and says how much. A stream that has ended takes
    /// nothing more: the output goes to the log only, until its end has been noticed.
    async fn reserve(&self, channel: u8) -> usize {
        match self {
            Self::Nobody => MAX_CHUNK,
            Self::Peer(sender) => sender.reserve(channel).await.unwrap_or(MAX_CHUNK),
            Self::Record(record) => {
                record.reserve().await;
                MAX_CHUNK
            }
        }
    }

    fn put(&self, channel: u8, bytes: &[u8]) {
        match self {
            Self::Nobody => {}
            Self::Peer(sender) => {
                // The end of the stream is noticed where its events are read.
                let _ = sender.send_reserved(channel, bytes);
            }
            Self::Record(record) => record.append(channel, bytes),
        }
    }
}

/// Where output comes from.
#[derive(Debug)]
pub(super) struct Output {
    source: pipe::Receiver,
    channel: u8,
    lane: u64,
    terminal: bool,
    enlarged: bool,
}

impl Output {
    pub(super) fn new(source: pipe::Receiver, channel: u8, lane: u64, terminal: bool) -> Self {
        Self {
            source,
            channel,
            lane,
            terminal,
            enlarged: terminal,
        }
    }

    /// Waits for output, and for whoever takes it to be ready, and passes one piece on; `false` at
    /// the end of output. Nothing is lost when the future is dropped.
    pub(super) async fn pass_on(&mut self, agent: &Agent, sink: Sink<'_>) -> bool {
        let room = sink.reserve(self.channel).await;
        self.take(agent, sink, room).await > 0
    }

    /// Waits for output and passes at most `room` bytes of it on; how many, 0 at its end.
    async fn take(&mut self, agent: &Agent, sink: Sink<'_>, room: usize) -> usize {
        loop {
            if self.source.readable().await.is_err() {
                return 0;
            }
            let mut buffer = scratch(&agent.scratch);
            let most = room.min(buffer.len());
            match self.source.try_read(&mut buffer[..most]) {
                Ok(count) if count > 0 => {
                    self.hand_on(agent, sink, &buffer[..count]);
                    return count;
                }
                Err(error) if wait_again(&error) => {}
                // The other end is closed; a terminal says so with an error.
                Ok(_) | Err(_) => return 0,
            }
        }
    }

    fn hand_on(&mut self, agent: &Agent, sink: Sink<'_>, bytes: &[u8]) {
        lock(&agent.logs).append(self.lane, bytes);
        sink.put(self.channel, bytes);
        if !self.enlarged && bytes.len() == MAX_CHUNK {
            self.enlarged = true;
            // Over the user's allowance it stays as it is.
            let _ = rustix::pipe::fcntl_setpipe_size(&self.source, LARGE_PIPE);
        }
    }

    /// Passes on what is there now, and no more; `false` at the end of output.
    pub(super) async fn deliver_rest(&mut self, agent: &Agent, sink: Sink<'_>) -> bool {
        if self.terminal {
            let mut left = TERMINAL_REST;
            while left > 0 {
                // However long the reader takes, the kernel's patience is another matter.
                let room = sink.reserve(self.channel).await;
                let taking = self.take(agent, sink, room.min(left));
                match tokio::time::timeout(TERMINAL_PATIENCE, taking).await {
                    Ok(0) => return false,
                    Ok(count) => left -= count,
                    Err(_) => break,
                }
            }
            return true;
        }
        let mut left = rustix::io::ioctl_fionread(&self.source).unwrap_or(0);
        while left > 0 {
            let room = sink.reserve(self.channel).await;
            let mut buffer = scratch(&agent.scratch);
            let most = room
                .min(buffer.len())
                .min(usize::try_from(left).unwrap_or(MAX_CHUNK));
            match rustix::io::read(&self.source, &mut buffer[..most]) {
                Ok(0) => return false,
                Ok(count) => {
                    self.hand_on(agent, sink, &buffer[..count]);
                    left -= count as u64;
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        let mut buffer = scratch(&agent.scratch);
        match rustix::io::read(&self.source, &mut *buffer) {
            Ok(0) => false,
            Ok(count) => {
                lock(&agent.logs).append(self.lane, &buffer[..count]);
                true
            }
            Err(error) => matches!(error, Errno::AGAIN | Errno::INTR),
        }
    }

    /// Reads to the end, for the log only.
    pub(super) async fn drain(mut self, agent: Arc<Agent>) {
        while self.pass_on(&agent, Sink::Nobody).await {}
    }
}

/// Where input goes.
#[derive(Debug)]
pub(super) enum Input {
    /// Nowhere: none was asked for, or it has been closed.
    None,
    /// To a pipe.
    Pipe(Feed),
    /// To a terminal.
    Terminal(Feed),
}

/// Input on its way.
#[derive(Debug)]
pub(super) struct Feed {
    target: pipe::Sender,
    waiting: VecDeque<(Bytes, usize)>,
    finish: bool,
}

impl Feed {
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
            Self::Terminal(feed) => Some(feed.target.as_fd()),
            Self::None | Self::Pipe(_) => None,
        }
    }

    /// Takes bytes; their number comes back at once when they will never be used.
    pub(super) fn push(&mut self, bytes: Bytes) -> Option<usize> {
        let length = bytes.len();
        match self {
            Self::Pipe(feed) | Self::Terminal(feed) if !feed.finish => {
                feed.waiting.push_back((bytes, length));
                None
            }
            _ => Some(length),
        }
    }

    /// Nothing more comes: after what waits, a pipe is closed and a terminal gets the end character.
    pub(super) fn finish(&mut self) {
        match self {
            Self::None => {}
            Self::Pipe(feed) if feed.waiting.is_empty() => *self = Self::None,
            Self::Pipe(feed) => feed.finish = true,
            Self::Terminal(feed) => {
                if !feed.finish {
                    feed.waiting
                        .push_back((Bytes::from_static(END_OF_INPUT), 0));
                    feed.finish = true;
                }
            }
        }
    }

    /// Whether it takes nothing more.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::None => true,
            Self::Pipe(feed) | Self::Terminal(feed) => feed.finish,
        }
    }

    /// Whether something waits to be written.
    pub(super) fn wants(&self) -> bool {
        match self {
            Self::None => false,
            Self::Pipe(feed) | Self::Terminal(feed) => !feed.waiting.is_empty(),
        }
    }

    /// Writes one waiting piece and answers how long it was. Nothing is lost when the future is
    /// dropped.
    pub(super) async fn feed(&mut self) -> usize {
        let (Self::Pipe(feed) | Self::Terminal(feed)) = self else {
            return std::future::pending().await;
        };
        loop {
            let Some((bytes, length)) = feed.waiting.front_mut() else {
                return std::future::pending().await;
            };
            let length = *length;
            let written = match feed.target.writable().await {
                Ok(()) => feed.target.try_write(bytes),
                Err(error) => Err(error),
            };
            match written {
                Ok(count) => {
                    bytes.advance(count);
                    if !bytes.is_empty() {
                        continue;
                    }
                    feed.waiting.pop_front();
                    if feed.finish && feed.waiting.is_empty() && matches!(self, Self::Pipe(_)) {
                        *self = Self::None;
                    }
                    return length;
                }
                Err(error) if wait_again(&error) => {}
                // Nobody reads any more.
                Err(_) => return self.give_up(),
            }
        }
    }

    /// Drops what waits and everything to come; answers how much waited.
    fn give_up(&mut self) -> usize {
        match std::mem::replace(self, Self::None) {
            Self::None => 0,
            Self::Pipe(feed) => feed.waiting.iter().map(|(_, length)| length).sum(),
            Self::Terminal(mut feed) => {
                let waited = feed.waiting.drain(..).map(|(_, length)| length).sum();
                feed.finish = true;
                // It can still be resized.
                *self = Self::Terminal(feed);
                waited
            }
        }
    }
}
