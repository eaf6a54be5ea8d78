//! The kept output of one command: a bounded piece of the past that anybody can read again from
//! any offset that it still has, and the end.
//!
//! Offsets count the bytes of both streams together, in the order in which they were read. While
//! somebody reads, the command waits for the slowest reader before anything unread is forgotten,
//! but for a reader that has taken nothing for a while it does not wait: that one is told where
//! its output begins again. Without readers nothing ever waits.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use stacyvm_proto::MAX_CHUNK;
use stacyvm_proto::message::Exit;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::agent::lock;

/// What is kept of one command, bytes, bookkeeping included. It grows as output comes.
pub(super) const KEPT: usize = 4 * 1024 * 1024;
/// What a reader has been given stays for this much longer, bytes: it may be under way in buffers
/// of the server, of both kernels and of the client, and is asked for again when they break.
const UNDER_WAY: u64 = 2 * 1024 * 1024;
/// What a piece costs beside its bytes, so that a flood of tiny ones is bounded too.
const PIECE_COST: usize = 64;
/// Pieces of one channel are joined up to this size.
const JOIN: usize = 16 * 1024;
/// How long a command waits for a reader that takes nothing.
const STALL: Duration = Duration::from_secs(10);

/// The record. Its users are on one thread; nothing is held across a wait.
#[derive(Debug, Default)]
pub(crate) struct Record {
    inner: Mutex<Inner>,
    /// Something came, or the end.
    more: Notify,
    /// A reader moved on, or left.
    room: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    pieces: VecDeque<Piece>,
    start: u64,
    end: u64,
    cost: usize,
    readers: Vec<Reader>,
    next_reader: u64,
    exit: Option<Exit>,
}

#[derive(Debug)]
struct Piece {
    channel: u8,
    offset: u64,
    bytes: Vec<u8>,
}

impl Reader {
    /// The first byte that it may still ask for.
    fn needs(&self) -> u64 {
        self.begin.max(self.position.saturating_sub(UNDER_WAY))
    }
}

#[derive(Debug)]
struct Reader {
    id: u64,
    /// Where it began, or went on after a loss.
    begin: u64,
    position: u64,
    moved: Instant,
}

/// What a reader gets next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Output; its last byte stands before the reader's new position.
    Data(u8, Bytes),
    /// What came before this offset is forgotten.
    Resumed(u64),
    /// The command's end, after all of its output.
    Exit(Exit),
}

impl Record {
    /// The first offset that is kept, and the one after the last.
    pub(crate) fn bounds(&self) -> (u64, u64) {
        let inner = lock(&self.inner);
        (inner.start, inner.end)
    }

    /// How the command ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        lock(&self.inner).exit
    }

    /// What the record takes of memory, about.
    pub(crate) fn cost(&self) -> usize {
        lock(&self.inner).cost
    }

    /// Resolves when the command has ended.
    pub(crate) async fn ended(&self) -> Exit {
        loop {
            let more = self.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            if let Some(exit) = self.exit() {
                return exit;
            }
            more.await;
        }
    }

    /// Waits until the next chunk may be appended without taking anything from a reader that reads.
    pub(super) async fn reserve(&self) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let Some(patience) = lock(&self.inner).must_wait() else {
                return;
            };
            // Out of patience is as good as a reader that left: the next look says so.
            let _ = tokio::time::timeout_at(patience, room).await;
        }
    }

    pub(super) fn append(&self, channel: u8, bytes: &[u8]) {
        lock(&self.inner).append(channel, bytes);
        self.more.notify_waiters();
    }

    /// Nothing comes after this.
    pub(super) fn finish(&self, exit: Exit) {
        lock(&self.inner).exit = Some(exit);
        self.more.notify_waiters();
    }

    /// A reader from `offset` on; beyond the end it begins at the end.
    pub(crate) fn read_from(&self, offset: u64) -> Reading<'_> {
        let mut inner = lock(&self.inner);
        let id = inner.next_reader;
        inner.next_reader += 1;
        let position = offset.min(inner.end);
        inner.readers.push(Reader {
            id,
            begin: position,
            position,
            moved: Instant::now(),
        });
        Reading {
            record: self,
            id,
            begun: false,
        }
    }
}

impl Inner {
    /// Until when the writer waits for a reader that has not read yet what one more chunk would
    /// push out; none when it need not wait.
    fn must_wait(&self) -> Option<Instant> {
        if self.readers.is_empty() {
            return None;
        }
        let mut over = (self.cost + MAX_CHUNK + PIECE_COST).saturating_sub(KEPT);
        let mut start = self.start;
        for piece in &self.pieces {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(piece.bytes.len() + PIECE_COST);
            start = piece.offset + piece.bytes.len() as u64;
        }
        let now = Instant::now();
        self.readers
            .iter()
            // Who has read everything cannot move, and who has lost the thread is told so anyway.
            .filter(|reader| (self.start..self.end).contains(&reader.position))
            .filter(|reader| reader.needs().max(self.start) < start)
            .map(|reader| reader.moved + STALL)
            .filter(|patience| *patience > now)
            .min()
    }

    fn append(&mut self, channel: u8, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        // Whoever had read all there was begins to be late only now.
        for reader in &mut self.readers {
            if reader.position == self.end {
                reader.moved = Instant::now();
            }
        }
        match self.pieces.back_mut() {
            Some(last) if last.channel == channel && last.bytes.len() + length <= JOIN => {
                last.bytes.extend_from_slice(bytes);
                self.cost += length;
            }
            _ => {
                self.pieces.push_back(Piece {
                    channel,
                    offset: self.end,
                    bytes: bytes.to_vec(),
                });
                self.cost += length + PIECE_COST;
            }
        }
        self.end += length as u64;
        while self.cost > KEPT
            && let Some(oldest) = self.pieces.pop_front()
        {
            self.cost -= oldest.bytes.len() + PIECE_COST;
            self.start = oldest.offset + oldest.bytes.len() as u64;
        }
    }

    /// At most `most` bytes at `position`, which is kept.
    fn at(&self, position: u64, most: usize) -> (u8, Bytes) {
        let after = self
            .pieces
            .partition_point(|piece| piece.offset <= position);
        let piece = &self.pieces[after - 1];
        let from = usize::try_from(position - piece.offset).unwrap_or(usize::MAX);
        let rest = &piece.bytes[from..];
        (
            piece.channel,
            Bytes::copy_from_slice(&rest[..rest.len().min(most)]),
        )
    }
}

/// One reader. Whoever drops it is not waited for any more.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    record: &'a Record,
    id: u64,
    begun: bool,
}

impl Reading<'_> {
    /// The next thing that can be had without waiting.
    pub(crate) fn now(&mut self) -> Option<Next> {
        let mut inner = lock(&self.record.inner);
        let at = inner.readers.iter().position(|one| one.id == self.id)?;
        let position = inner.readers[at].position;
        let begun = std::mem::replace(&mut self.begun, true);
        let next = if position < inner.start || !begun {
            let offset = position.max(inner.start);
            inner.readers[at].begin = offset;
            inner.readers[at].position = offset;
            Next::Resumed(offset)
        } else if position < inner.end {
            let (channel, bytes) = inner.at(position, MAX_CHUNK);
            inner.readers[at].position += bytes.len() as u64;
            Next::Data(channel, bytes)
        } else {
            return inner.exit.map(Next::Exit);
        };
        inner.readers[at].moved = Instant::now();
        drop(inner);
        self.record.room.notify_waiters();
        Some(next)
    }

    /// The next thing. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Next {
        let record = self.record;
        loop {
            let more = record.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            if let Some(next) = self.now() {
                return next;
            }
            more.await;
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        lock(&self.record.inner)
            .readers
            .retain(|reader| reader.id != self.id);
        self.record.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit() -> Exit {
        Exit {
            exit_code: 3,
            ..Exit::default()
        }
    }

    /// Everything that can be had now: bytes per channel in order, and where it began.
    fn drain(reading: &mut Reading<'_>) -> (Vec<(u8, Vec<u8>)>, Vec<u64>) {
        let (mut data, mut resumed): (Vec<(u8, Vec<u8>)>, _) = (Vec::new(), Vec::new());
        while let Some(next) = reading.now() {
            match next {
                Next::Data(channel, bytes) => match data.last_mut() {
                    Some((last, all)) if *last == channel => all.extend_from_slice(&bytes),
                    _ => data.push((channel, bytes.to_vec())),
                },
                Next::Resumed(offset) => resumed.push(offset),
                Next::Exit(_) => break,
            }
        }
        (data, resumed)
    }

    #[tokio::test]
    async fn any_offset_gives_the_rest_of_the_same_bytes() {
        let record = Record::default();
        let mut all = Vec::new();
        for number in 0..500_u32 {
            let text = format!("line {number}\n");
            record.append(1 + (number % 3 == 0) as u8, text.as_bytes());
            all.extend_from_slice(text.as_bytes());
        }
        record.finish(exit());
        for offset in [0, 1, 777, all.len() as u64 - 1, all.len() as u64, 1 << 40] {
            let (data, resumed) = drain(&mut record.read_from(offset));
            let begin = offset.min(all.len() as u64);
            assert_eq!(resumed, [begin]);
            let joined: Vec<u8> = data.into_iter().flat_map(|(_, bytes)| bytes).collect();
            assert_eq!(joined, all[begin as usize..], "from {offset}");
        }
        assert_eq!(record.ended().await, exit());
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded_and_the_loss_is_told() {
        let record = Record::default();
        for _ in 0..200 {
            record.reserve().await;
            record.append(1, &[b'x'; MAX_CHUNK]);
        }
        for _ in 0..100_000 {
            record.append(1, b"o");
            record.append(2, b"e");
        }
        assert!(record.cost() <= KEPT);
        let (start, end) = record.bounds();
        assert_eq!(end, 200 * MAX_CHUNK as u64 + 200_000);
        let (data, resumed) = drain(&mut record.read_from(0));
        assert_eq!(resumed, [start]);
        let length: usize = data.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(length as u64, end - start);
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_waits_for_a_reader_that_reads_and_not_for_one_that_stalls() {
        let record = Record::default();
        let mut stalled = record.read_from(0);
        let mut reading = record.read_from(0);
        let begin = Instant::now();
        let writing = async {
            for number in 0..200_u8 {
                record.reserve().await;
                record.append(1, &[number; MAX_CHUNK]);
            }
            record.finish(exit());
        };
        let taking = async {
            let mut seen = 0_u64;
            loop {
                match reading.next().await {
                    Next::Resumed(offset) => assert_eq!(offset, seen),
                    Next::Data(_, bytes) => {
                        assert_eq!(u64::from(bytes[0]), seen / MAX_CHUNK as u64);
                        seen += bytes.len() as u64;
                    }
                    Next::Exit(_) => return seen,
                }
            }
        };
        let ((), seen) = tokio::join!(writing, taking);
        assert_eq!(
            seen,
            200 * MAX_CHUNK as u64,
            "nothing is missing or doubled"
        );
        assert!(
            begin.elapsed() >= STALL,
            "the stalled one was waited for once"
        );
        assert!(begin.elapsed() < 2 * STALL);
        let (_, resumed) = drain(&mut stalled);
        assert_eq!(resumed, [record.bounds().0], "and hears what it lost");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_reader_was_given_can_be_asked_for_again() {
        let record = Record::default();
        let mut reading = record.read_from(0);
        let writing = async {
            for _ in 0..200 {
                record.reserve().await;
                record.append(1, &[0; MAX_CHUNK]);
            }
        };
        let taking = async {
            let mut position = 0;
            while position < 199 * MAX_CHUNK as u64 {
                if let Next::Data(_, bytes) = reading.next().await {
                    position += bytes.len() as u64;
                }
                assert!(record.bounds().0 <= position.saturating_sub(UNDER_WAY));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::join!(writing, taking);
    }

    #[tokio::test(start_paused = true)]
    async fn tiny_pieces_of_two_streams_never_wait_for_a_reader_that_is_there() {
        let record = Record::default();
        let mut reading = record.read_from(0);
        let begin = Instant::now();
        for number in 0..200_000_u32 {
            record.reserve().await;
            record.append(1 + (number % 2) as u8, b"word");
            while reading.now().is_some() {}
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_again_after_a_stall_is_waited_for_again() {
        let record = Record::default();
        let chunk = || record.append(1, &[0; MAX_CHUNK]);
        let mut reading = record.read_from(0);
        assert_eq!(reading.now(), Some(Next::Resumed(0)));
        for _ in 0..40 {
            chunk();
            assert!(reading.now().is_some());
        }
        // It stalls, and is overtaken: not where it stands, but in what it was given last.
        for _ in 0..48 {
            chunk();
        }
        let (start, _) = record.bounds();
        assert!((1..40 * MAX_CHUNK as u64).contains(&start), "{start}");
        tokio::time::sleep(STALL).await;
        assert!(matches!(reading.now(), Some(Next::Data(..))));
        let writing = async {
            for _ in 0..200 {
                record.reserve().await;
                chunk();
            }
            record.finish(exit());
        };
        let taking = async {
            loop {
                match reading.next().await {
                    Next::Data(..) => tokio::time::sleep(Duration::from_millis(1)).await,
                    Next::Exit(_) => return,
                    Next::Resumed(offset) => panic!("overtaken at {offset}"),
                }
            }
        };
        tokio::join!(writing, taking);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_leaves_lets_the_writer_go_on() {
        let record = Record::default();
        let begin = Instant::now();
        let reading = record.read_from(0);
        for _ in 0..KEPT / MAX_CHUNK - 1 {
            record.reserve().await;
            record.append(1, &[0; MAX_CHUNK]);
        }
        let leaving = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(reading);
        };
        tokio::join!(record.reserve(), leaving);
        assert_eq!(begin.elapsed(), Duration::from_secs(1));
    }
}
