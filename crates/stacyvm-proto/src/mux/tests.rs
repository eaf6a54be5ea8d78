//! The multiplexer against itself, and against a peer that breaks the rules.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::frame::{Header, Kind, WINDOW};
use crate::message::{Done, Logs};

fn accepting() -> (Mux, Incoming, DuplexStream) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (read, write) = tokio::io::split(near);
    let (mux, incoming, driver) = start(read, write, Side::Accepting);
    tokio::spawn(driver.run());
    (mux, incoming, far)
}

fn pair() -> (Mux, Incoming) {
    let (mux, incoming, far) = accepting();
    let (read, write) = tokio::io::split(far);
    let (host, _, driver) = start(read, write, Side::Connecting);
    tokio::spawn(driver.run());
    // The accepting handle lives as long as its `Incoming`.
    drop(mux);
    (host, incoming)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it should have happened by now")
}

#[tokio::test]
async fn a_request_is_answered_and_ends() {
    let (host, mut incoming) = pair();
    let logs = Logs {
        lines: 7,
        ..Logs::default()
    };
    let mut asked = host.open(&logs).unwrap();
    let accepted = soon(incoming.accept()).await.unwrap();
    let request: Logs = prost::Message::decode(accepted.request).unwrap();
    assert_eq!(request.lines, 7);
    accepted.stream.sender.last_message(&Done {}).await.unwrap();
    drop(accepted.stream);
    assert_eq!(
        soon(asked.receiver.receive()).await,
        Event::Message(Bytes::new())
    );
    for _ in 0..2 {
        assert_eq!(
            soon(asked.receiver.receive()).await,
            Event::Closed(End::Finished)
        );
    }
    assert_eq!(host.open_streams(), 1);
    drop(asked);
    assert_eq!(host.open_streams(), 0);
}

#[tokio::test]
async fn a_slow_consumer_stops_the_sender_and_release_lets_it_go_on() {
    let (host, mut incoming) = pair();
    let asked = host.open(&Done {}).unwrap();
    let mut accepted = soon(incoming.accept()).await.unwrap().stream;
    let total = 8 * WINDOW as usize;
    let sending = tokio::spawn(async move {
        asked
            .sender
            .send(1, Bytes::from(vec![7; total]))
            .await
            .unwrap();
        asked.sender.finish(1).unwrap();
        asked
    });
    let mut held = 0;
    let mut held_events = 0;
    while let Ok(event) =
        tokio::time::timeout(Duration::from_millis(200), accepted.receiver.receive()).await
    {
        let Event::Data(1, data) = event else {
            panic!("only data should come, not {event:?}")
        };
        held += data.len();
        held_events += 1;
    }
    assert!(held <= WINDOW as usize, "{held} bytes came without credit");
    assert!(!sending.is_finished());
    accepted.receiver.release(1, held + held_events * 64);
    let mut seen = held;
    loop {
        match soon(accepted.receiver.receive()).await {
            Event::Data(1, data) => {
                seen += data.len();
                accepted.receiver.release(1, data.len());
            }
            Event::Finished(1) => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(seen, total);
    drop(soon(sending).await.unwrap());
}

#[tokio::test]
async fn dropping_a_stream_resets_it_for_the_other_side() {
    let (host, mut incoming) = pair();
    let asked = host.open(&Done {}).unwrap();
    let mut accepted = soon(incoming.accept()).await.unwrap().stream;
    drop(asked);
    assert_eq!(
        soon(accepted.receiver.receive()).await,
        Event::Closed(End::Reset)
    );
    assert_eq!(
        accepted.sender.message(&Done {}).await,
        Err(MuxError::Ended)
    );
}

#[tokio::test]
async fn a_lost_connection_ends_everything() {
    let (mux, mut incoming, far) = accepting();
    let (read, write) = tokio::io::split(far);
    let (host, _, driver) = start(read, write, Side::Connecting);
    let driver = tokio::spawn(driver.run());
    let mut asked = host.open(&Done {}).unwrap();
    let accepted = soon(incoming.accept()).await.unwrap();
    mux.close();
    assert_eq!(
        soon(asked.receiver.receive()).await,
        Event::Closed(End::Lost)
    );
    soon(host.closed()).await;
    assert!(matches!(soon(driver).await.unwrap(), Ended::Io(_)));
    assert!(soon(incoming.accept()).await.is_none());
    assert_eq!(host.open(&Done {}).unwrap_err(), MuxError::Lost);
    drop(accepted);
}

#[tokio::test]
async fn the_last_handle_closes_the_connection() {
    let (host, mut incoming) = pair();
    let ping = soon(host.ping()).await;
    assert!(ping.is_ok());
    drop(host);
    assert!(soon(incoming.accept()).await.is_none());
}

#[tokio::test]
async fn streams_have_a_limit() {
    let (host, _incoming) = pair();
    let mut open = Vec::new();
    for _ in 0..MAX_STREAMS {
        open.push(host.open(&Done {}).unwrap());
    }
    assert_eq!(host.open(&Done {}).unwrap_err(), MuxError::TooManyStreams);
    open.pop();
    open.push(host.open(&Done {}).unwrap());
    assert_eq!(host.open_streams(), MAX_STREAMS);
}

async fn raw(far: &mut DuplexStream, kind: Kind, stream: u32, channel: u8, payload: &[u8]) {
    let header = Header::new(kind, stream, channel, payload.len() as u32);
    far.write_all(&header.encode()).await.unwrap();
    far.write_all(payload).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_ignores_its_credit_is_cut_off() {
    let (mux, mut incoming, mut far) = accepting();
    raw(&mut far, Kind::Open, 1, 0, &[]).await;
    let accepted = soon(incoming.accept()).await.unwrap();
    let feeding = tokio::spawn(async move {
        let chunk = vec![0; 60_000];
        for _ in 0..6 {
            let header = Header::new(Kind::Data, 1, 1, chunk.len() as u32);
            if far.write_all(&header.encode()).await.is_err()
                || far.write_all(&chunk).await.is_err()
            {
                break;
            }
        }
        far
    });
    soon(mux.closed()).await;
    drop(accepted);
    drop(mux);
    drop(incoming);
    soon(feeding).await.unwrap();
}

#[tokio::test]
async fn unknown_kinds_and_dead_streams_are_skipped() {
    let (mux, _incoming, mut far) = accepting();
    let mut unknown = Header::new(Kind::Data, 9, 1, 3);
    unknown.kind = 200;
    far.write_all(&unknown.encode()).await.unwrap();
    far.write_all(b"abc").await.unwrap();
    raw(&mut far, Kind::Data, 77, 1, b"nobody listens").await;
    raw(&mut far, Kind::Ping, 0, 0, b"12345678").await;
    let mut answer = [0; 20];
    soon(far.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[8], Kind::Pong.number());
    assert_eq!(&answer[12..], b"12345678");
    assert!(!mux.is_closed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn garbage_never_hurts(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (near, mut far) = tokio::io::duplex(8192);
            let (read, write) = tokio::io::split(near);
            let (_mux, _incoming, driver) = start(read, write, Side::Accepting);
            far.write_all(&bytes).await.unwrap();
            far.shutdown().await.unwrap();
            let ended = soon(driver.run()).await;
            prop_assert!(matches!(ended, Ended::Io(_) | Ended::Frame(_)));
            Ok(())
        })?;
    }
}
