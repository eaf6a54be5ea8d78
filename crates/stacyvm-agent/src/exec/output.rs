//! A command's output: from its pipe or terminal to the log and to a peer or a record.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use stacyvm_proto::MAX_CHUNK;
use stacyvm_proto::mux::Sender;
use tokio::net::unix::pipe;

use super::record::Record;
use crate::agent::Agent;

/// The size that a pipe is enlarged to once a command has filled it, bytes.
const LARGE_PIPE: usize = 256 * 1024;
/// How many bytes are read from a terminal after the command's end. A terminal holds less, so what
/// comes beyond it was not printed by the command.
const MAX_TERMINAL_REST: usize = 256 * 1024;
/// How long to wait for the rest of a terminal's output, which the kernel delivers in the background.
const TERMINAL_REST_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether an I/O error means that the operation can be tried again.
pub(super) fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Where output goes beside the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sink<'a> {
    /// Nowhere: the peer is gone.
    Discard,
    /// To the stream that started the command; it waits for the peer.
    Peer(&'a Sender),
    /// To a record, which streams follow.
    Record(&'a Record),
}

impl Sink<'_> {
    /// Waits until bytes may be put there and answers how many. A stream that has ended takes nothing
    /// more: until its end has been noticed, output goes to the log only.
    async fn reserve(&self, channel: u8) -> usize {
        match self {
            Self::Discard => MAX_CHUNK,
            Self::Peer(sender) => sender.reserve(channel).await.unwrap_or(MAX_CHUNK),
            Self::Record(record) => {
                record.reserve().await;
                MAX_CHUNK
            }
        }
    }

    fn put(&self, channel: u8, bytes: &[u8]) {
        match self {
            Self::Discard => {}
            Self::Peer(sender) => {
                // The end of the stream is noticed where its events are read.
                let _ = sender.send_reserved(channel, bytes);
            }
            Self::Record(record) => record.append(channel, bytes),
        }
    }
}

/// One stream of a command's output.
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

    /// Waits for output and for the sink, and forwards one chunk; `false` at the end of output. The
    /// future may be dropped; nothing is lost.
    pub(super) async fn forward(&mut self, agent: &Agent, sink: Sink<'_>) -> bool {
        let room = sink.reserve(self.channel).await;
        self.take(agent, sink, room).await > 0
    }

    /// Waits for output and forwards at most `room` bytes of it. Answers how many, 0 at its end.
    async fn take(&mut self, agent: &Agent, sink: Sink<'_>, room: usize) -> usize {
        loop {
            if self.source.readable().await.is_err() {
                return 0;
            }
            let mut buffer = agent.read_buffer.lock();
            let most = room.min(buffer.len());
            match self.source.try_read(&mut buffer[..most]) {
                Ok(count) if count > 0 => {
                    self.put(agent, sink, &buffer[..count]);
                    return count;
                }
                Err(error) if is_temporary(&error) => {}
                // The other end is closed; a terminal says so with an error.
                Ok(_) | Err(_) => return 0,
            }
        }
    }

    fn put(&mut self, agent: &Agent, sink: Sink<'_>, bytes: &[u8]) {
        agent.logs.lock().append(self.lane, bytes);
        sink.put(self.channel, bytes);
        if !self.enlarged && bytes.len() == MAX_CHUNK {
            self.enlarged = true;
            // Above the user's allowance the pipe keeps its size.
            let _ = rustix::pipe::fcntl_setpipe_size(&self.source, LARGE_PIPE);
        }
    }

    /// Forwards what is there now, and no more; `false` at the end of output.
    pub(super) async fn forward_rest(&mut self, agent: &Agent, sink: Sink<'_>) -> bool {
        if self.terminal {
            let mut left = MAX_TERMINAL_REST;
            while left > 0 {
                // The timeout is for the kernel alone; the sink may take as long as it needs.
                let room = sink.reserve(self.channel).await;
                let taking = self.take(agent, sink, room.min(left));
                match tokio::time::timeout(TERMINAL_REST_TIMEOUT, taking).await {
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
            let mut buffer = agent.read_buffer.lock();
            let most = room
                .min(buffer.len())
                .min(usize::try_from(left).unwrap_or(MAX_CHUNK));
            match rustix::io::read(&self.source, &mut buffer[..most]) {
                Ok(0) => return false,
                Ok(count) => {
                    self.put(agent, sink, &buffer[..count]);
                    left -= count as u64;
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        let mut buffer = agent.read_buffer.lock();
        match rustix::io::read(&self.source, &mut *buffer) {
            Ok(0) => false,
            Ok(count) => {
                agent.logs.lock().append(self.lane, &buffer[..count]);
                true
            }
            Err(error) => matches!(error, Errno::AGAIN | Errno::INTR),
        }
    }

    /// Reads to the end of output, for the log only.
    pub(super) async fn drain(mut self, agent: Arc<Agent>) {
        while self.forward(&agent, Sink::Discard).await {}
    }
}
