//! Sessions over pipes that are cut, shared, mixed up, slow or never read.

#![allow(clippy::unwrap_used)]
use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::chunk::{self, Chunk, Damaged, Decoder, MAX_CHUNK_LEN, MAX_DATA};
use super::wire::kind;
use super::{ALIVE_INTERVAL, HostRead, Link, NONCE_LEN, SILENCE_TIMEOUT, SessionWrite, connect};

const PIPE: usize = 64 * 1024;
const DEADLINE: Duration = Duration::from_secs(3600);

type Agent = Link<DuplexStream, DuplexStream>;

/// The engine's side of the pipes: what hosts write comes to the agent, and back.
fn pipes() -> (Agent, DuplexStream, DuplexStream) {
    let (to_agent, input) = duplex(PIPE);
    let (output, from_agent) = duplex(PIPE);
    (Link::new(input, output), from_agent, to_agent)
}

/// An agent that answers each session's bytes with the same bytes, until the pipes close.
async fn echo(mut link: Agent) {
    while let Ok((mut read, mut write)) = link.accept().await {
        let mut buffer = vec![0; 10_000];
        while let Ok(count) = read.read(&mut buffer).await {
            if count == 0 || write.write_all(&buffer[..count]).await.is_err() {
                break;
            }
            write.flush().await.ok();
        }
    }
}

fn nonce(number: u8) -> [u8; NONCE_LEN] {
    [number; NONCE_LEN]
}

type Ends<'a> = (
    HostRead<&'a mut DuplexStream, &'a mut DuplexStream>,
    SessionWrite<&'a mut DuplexStream>,
);

async fn joined<'a>(from: &'a mut DuplexStream, to: &'a mut DuplexStream, number: u8) -> Ends<'a> {
    tokio::time::timeout(DEADLINE, connect(from, to, nonce(number)))
        .await
        .expect("the agent answers")
        .unwrap()
}

/// Says something and hears it back.
async fn talk((read, write): &mut Ends<'_>, text: &[u8]) {
    let mut heard = vec![0; text.len()];
    let saying = async {
        write.write_all(text).await.unwrap();
        write.flush().await.unwrap();
    };
    let hearing = async { read.read_exact(&mut heard).await.unwrap() };
    tokio::time::timeout(DEADLINE, async { tokio::join!(saying, hearing) })
        .await
        .expect("it comes back");
    assert_eq!(heard, text);
}

fn chunk_of(kind: u8, session: u32, data: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    chunk::write(&mut bytes, kind, session, data);
    bytes
}

#[test]
fn the_layout_is_fixed() {
    let bytes = chunk_of(kind::DATA, 0x0403_0201, b"abc");
    assert_eq!(bytes[..7], [3, 3, 0, 1, 2, 3, 4]);
    assert_eq!(&bytes[11..], b"abc");
    assert_eq!(bytes[7..11], [138, 14, 30, 196], "the check");
}

#[test]
fn every_damage_of_one_byte_is_seen() {
    let good = chunk_of(kind::DATA, 77, b"some data that matters");
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let mut decoder = Decoder::default();
            decoder.feed(&bad);
            decoder.feed(&[0; MAX_CHUNK_LEN]);
            // The top two bits of the length mean nothing, but they are covered too.
            assert_eq!(decoder.next_chunk(), Err(Damaged), "byte {at}, bit {bit}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_go_and_come_whole() {
    let (link, mut from, mut to) = pipes();
    tokio::spawn(echo(link));
    let mut ends = joined(&mut from, &mut to, 1).await;
    for length in [1, 11, MAX_DATA, MAX_DATA + 1, 1_000_000] {
        let text: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
        talk(&mut ends, &text).await;
    }
}

#[tokio::test(start_paused = true)]
async fn either_end_ends_the_session_by_dropping_what_it_writes_to() {
    for by_the_host in [true, false] {
        let (mut link, mut from, mut to) = pipes();
        let (ends, accepted) = tokio::join!(joined(&mut from, &mut to, 1), link.accept());
        let (mut host_read, host_write) = ends;
        let (mut agent_read, mut agent_write) = accepted.unwrap();
        let begin = tokio::time::Instant::now();
        let (mut buffer, mut other) = ([0; 16], [0; 1]);
        let heard = if by_the_host {
            drop(host_write);
            agent_read.read(&mut buffer).await
        } else {
            agent_write.write_all(b"last").await.unwrap();
            drop(agent_write);
            host_read.read_exact(&mut buffer[..4]).await.unwrap();
            // The reader polls the pipe: an end is written without waiting for room.
            let (heard, _) = tokio::join!(
                tokio::time::timeout(DEADLINE, host_read.read(&mut buffer)),
                tokio::time::timeout(ALIVE_INTERVAL, agent_read.read(&mut other)),
            );
            heard.expect("the host hears the end")
        };
        assert_eq!(heard.unwrap(), 0, "by the host: {by_the_host}");
        assert!(begin.elapsed() < SILENCE_TIMEOUT, "silence did not end it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_may_die_at_any_byte() {
    // The bytes of a short session, cut at every position.
    let mut life = vec![0; MAX_CHUNK_LEN];
    life.extend_from_slice(&chunk_of(kind::BEGIN, 0x0505_0505, &nonce(5)));
    let begun = MAX_CHUNK_LEN;
    life.extend_from_slice(&chunk_of(kind::DATA, 0x0505_0505, b"first"));
    life.extend_from_slice(&chunk_of(kind::DATA, 0x0505_0505, &[0; 40]));
    life.extend_from_slice(&chunk_of(kind::ALIVE, 0x0505_0505, &[]));
    for cut in (begun.saturating_sub(2)..=life.len()).chain([0, 1, 9000]) {
        let (link, mut from, mut to) = pipes();
        tokio::spawn(echo(link));
        to.write_all(&life[..cut]).await.unwrap();
        let mut ends = joined(&mut from, &mut to, 1).await;
        talk(&mut ends, b"the next one hears itself alone").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_may_die_in_the_middle_of_the_longest_chunk() {
    let longest = chunk_of(kind::DATA, 3, &[0xff; MAX_DATA]);
    for cut in [1, 2, 3, 6, 7, 10, 11, 12, 5000, longest.len() - 1] {
        let (link, mut from, mut to) = pipes();
        tokio::spawn(echo(link));
        talk(&mut joined(&mut from, &mut to, 3).await, b"x").await;
        to.write_all(&longest[..cut]).await.unwrap();
        talk(&mut joined(&mut from, &mut to, 4).await, b"y").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_host_skips_what_was_meant_for_others() {
    let (mut link, mut from, mut to) = pipes();
    // More than a pipe holds, and it is not read to its end.
    let chatter = tokio::spawn(async move {
        let (mut read, mut write) = link.accept().await.unwrap();
        let mut byte = [0];
        tokio::select! {
            _ = write.write_all(&[7; 1_000_000]) => panic!("it cannot be written"),
            read = read.read(&mut byte) => assert_eq!(read.unwrap(), 0),
        }
        drop((read, write));
        echo(link).await;
    });
    drop(joined(&mut from, &mut to, 1).await);
    let mut part = vec![0; 30_001];
    from.read_exact(&mut part).await.unwrap();
    let mut ends = joined(&mut from, &mut to, 2).await;
    talk(&mut ends, b"mine").await;
    assert!(!chatter.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_replaced_hears_its_end_and_falls_silent() {
    let (mut agent_says, mut from) = duplex(PIPE);
    let (mut to, mut agent_hears) = duplex(PIPE);
    // An engine hands what the agent says to every host that is attached.
    for bytes in [
        chunk_of(kind::BEGUN, 0x0101_0101, &nonce(1)),
        chunk_of(kind::DATA, 0x0101_0101, b"for the first"),
        chunk_of(kind::BEGUN, 0x0202_0202, &nonce(2)),
        chunk_of(kind::DATA, 0x0202_0202, b"for the second"),
    ] {
        agent_says.write_all(&bytes).await.unwrap();
    }
    let (mut read, mut write) = joined(&mut from, &mut to, 1).await;
    let mut heard = Vec::new();
    read.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"for the first");
    assert!(write.write_all(b"more").await.is_err());
    drop((read, write));
    drop(to);
    let mut said = Vec::new();
    agent_hears.read_to_end(&mut said).await.unwrap();
    let begin = chunk_of(kind::BEGIN, 0x0101_0101, &nonce(1));
    assert_eq!(said[MAX_CHUNK_LEN..], begin[..]);
}

/// Two sessions' bytes on one pipe.
async fn with_bytes_between(between: &[u8]) -> (Vec<u8>, bool) {
    let (mut link, mut from, mut to) = pipes();
    to.write_all(&[0; MAX_CHUNK_LEN]).await.unwrap();
    to.write_all(&chunk_of(kind::BEGIN, 9, &nonce(9)))
        .await
        .unwrap();
    to.write_all(&chunk_of(kind::DATA, 9, b"one,"))
        .await
        .unwrap();
    to.write_all(between).await.unwrap();
    to.write_all(&chunk_of(kind::DATA, 9, b"two"))
        .await
        .unwrap();
    to.write_all(&chunk_of(kind::END, 9, &[])).await.unwrap();
    to.write_all(&[0; MAX_CHUNK_LEN]).await.unwrap();
    let (mut read, write) = link.accept().await.unwrap();
    let mut heard = Vec::new();
    let begin = tokio::time::Instant::now();
    read.read_to_end(&mut heard).await.unwrap();
    assert!(
        begin.elapsed() < SILENCE_TIMEOUT,
        "silence ended it, and nothing else did"
    );
    drop((read, write));
    tokio::spawn(async move { link.accept().await.map(drop) });
    let mut said = Vec::new();
    let mut decoder = Decoder::default();
    let ended = loop {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(ALIVE_INTERVAL, from.read(&mut buffer)).await;
        let Ok(Ok(count)) = read else { break false };
        decoder.feed(&buffer[..count]);
        while let Some(chunk) = decoder.next_chunk().unwrap() {
            said.push(chunk.kind);
        }
        if said.contains(&kind::END) {
            break true;
        }
    };
    (heard, ended)
}

#[tokio::test(start_paused = true)]
async fn strangers_chunks_are_skipped_and_their_pieces_end_the_session() {
    let (heard, ended) = with_bytes_between(&chunk_of(kind::DATA, 8, b"stale")).await;
    assert_eq!((heard.as_slice(), ended), (&b"one,two"[..], false));
    let (heard, ended) = with_bytes_between(&chunk_of(99, 9, b"from the future")).await;
    assert_eq!((heard.as_slice(), ended), (&b"one,two"[..], false));
    let whole = chunk_of(kind::DATA, 8, b"stale data of some length");
    for cut in 1..whole.len() {
        // The rest of it, as if its beginning had come before: nothing of it may be believed.
        let (heard, ended) = with_bytes_between(&whole[cut..]).await;
        assert_eq!((heard.as_slice(), ended), (&b"one,"[..], true), "cut {cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_is_heard_on_the_other_side() {
    let (mut link, mut from, mut to) = pipes();
    let (ends, accepted) = tokio::join!(joined(&mut from, &mut to, 1), link.accept());
    let (mut read, write) = accepted.unwrap();
    drop(ends);
    let mut heard = Vec::new();
    read.read_to_end(&mut heard).await.unwrap();
    assert!(heard.is_empty());
    drop((read, write));
    let ((mut host_read, _host_write), accepted) =
        tokio::join!(joined(&mut from, &mut to, 2), link.accept());
    drop(accepted.unwrap());
    tokio::spawn(echo(link));
    host_read.read_to_end(&mut heard).await.unwrap();
    assert!(heard.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_is_given_up_and_a_quiet_one_is_not() {
    let (mut link, mut from, mut to) = pipes();
    let (ends, accepted) = tokio::join!(joined(&mut from, &mut to, 1), link.accept());
    let (mut read, _write) = accepted.unwrap();
    let (mut host_read, _host_write) = ends;
    let begin = tokio::time::Instant::now();
    let mut byte = [0];
    {
        let agent_hears = read.read(&mut byte);
        let mut byte = [0];
        let host_hears = host_read.read(&mut byte);
        let long = tokio::time::sleep(10 * SILENCE_TIMEOUT);
        tokio::select! {
            _ = agent_hears => panic!("a host that says it lives was given up"),
            _ = host_hears => panic!("the host heard an end"),
            () = long => {}
        }
    }
    // From here on the host is not polled.
    assert_eq!(read.read(&mut byte).await.unwrap(), 0);
    assert!(begin.elapsed() >= 10 * SILENCE_TIMEOUT + SILENCE_TIMEOUT - ALIVE_INTERVAL);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_nobody_reads_keeps_little_and_still_takes_the_next_host() {
    let (mut link, mut from, mut to) = pipes();
    let (ends, accepted) = tokio::join!(joined(&mut from, &mut to, 1), link.accept());
    let (read, mut write) = accepted.unwrap();
    let mut taken = 0;
    while let Ok(wrote) = tokio::time::timeout(ALIVE_INTERVAL, write.write(&[5; 9000])).await {
        taken += wrote.unwrap();
        assert!(taken < 4 * PIPE, "it takes without end");
    }
    drop((read, write));
    drop(ends);
    tokio::spawn(echo(link));
    talk(&mut joined(&mut from, &mut to, 2).await, b"here").await;
}

#[tokio::test(start_paused = true)]
async fn closed_pipes_are_an_error_for_both() {
    let (mut link, from, to) = pipes();
    drop((from, to));
    assert!(link.accept().await.is_err());
    let (link, mut from, mut to) = pipes();
    drop(link);
    assert!(connect(&mut from, &mut to, nonce(1)).await.is_err());
}

proptest! {
    #[test]
    fn after_any_bytes_and_the_filler_the_reader_stands_between_chunks(
        before in proptest::collection::vec(any::<u8>(), 0..200),
        wild in proptest::collection::vec(any::<u8>(), 0..20),
        data in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut decoder = Decoder::default();
        decoder.feed(&before);
        decoder.feed(&wild);
        decoder.feed(&vec![0; MAX_CHUNK_LEN]);
        // A header whose length says as much as it can needs all of the filler.
        while !matches!(decoder.next_chunk(), Ok(None)) {}
        prop_assert!(decoder.buffer.is_empty());
        decoder.feed(&chunk_of(kind::DATA, 4, &data));
        let found = decoder.next_chunk();
        let wanted = Chunk { kind: kind::DATA, session: 4, data: data.into() };
        prop_assert_eq!(found, Ok(Some(wanted)));
    }

    #[test]
    fn chunks_are_found_however_they_are_cut(
        all in proptest::collection::vec((1_u8.., any::<u32>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..10),
        filler in 0_usize..5,
        piece in 1_usize..40,
    ) {
        let mut bytes = BytesMut::new();
        for (kind, session, data) in &all {
            chunk::write(&mut bytes, *kind, *session, data);
            bytes.resize(bytes.len() + filler, 0);
        }
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for part in bytes.chunks(piece) {
            decoder.feed(part);
            while let Some(chunk) = decoder.next_chunk().unwrap() {
                found.push((chunk.kind, chunk.session, chunk.data.to_vec()));
            }
        }
        prop_assert_eq!(found, all);
    }
}
