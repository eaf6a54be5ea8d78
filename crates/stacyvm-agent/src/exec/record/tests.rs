//! The record, with readers that read, stall and leave.

use std::time::Duration;

use super::state::{MAX_IN_FLIGHT, MAX_RECORD, STALL_TIMEOUT};
use super::*;

fn exit() -> Exit {
    Exit {
        exit_code: 3,
        ..Exit::default()
    }
}

/// Everything that can be had now: bytes per channel in order, and where it began.
fn drain(reader: &mut RecordReader<'_>) -> (Vec<(u8, Vec<u8>)>, Vec<u64>) {
    let (mut data, mut resumed): (Vec<(u8, Vec<u8>)>, _) = (Vec::new(), Vec::new());
    while let Some(next) = reader.now() {
        match next {
            RecordEvent::Data(channel, bytes) => match data.last_mut() {
                Some((last, all)) if *last == channel => all.extend_from_slice(&bytes),
                _ => data.push((channel, bytes.to_vec())),
            },
            RecordEvent::Resumed(offset) => resumed.push(offset),
            RecordEvent::Exit(_) => break,
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
    assert!(record.cost() <= MAX_RECORD);
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
    let mut reader = record.read_from(0);
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
            match reader.next().await {
                RecordEvent::Resumed(offset) => assert_eq!(offset, seen),
                RecordEvent::Data(_, bytes) => {
                    assert_eq!(u64::from(bytes[0]), seen / MAX_CHUNK as u64);
                    seen += bytes.len() as u64;
                }
                RecordEvent::Exit(_) => return seen,
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
        begin.elapsed() >= STALL_TIMEOUT,
        "the stalled one was waited for once"
    );
    assert!(begin.elapsed() < 2 * STALL_TIMEOUT);
    let (_, resumed) = drain(&mut stalled);
    assert_eq!(resumed, [record.bounds().0], "and hears what it lost");
}

#[tokio::test(start_paused = true)]
async fn what_a_reader_was_given_can_be_asked_for_again() {
    let record = Record::default();
    let mut reader = record.read_from(0);
    let writing = async {
        for _ in 0..200 {
            record.reserve().await;
            record.append(1, &[0; MAX_CHUNK]);
        }
    };
    let taking = async {
        let mut position = 0;
        while position < 199 * MAX_CHUNK as u64 {
            if let RecordEvent::Data(_, bytes) = reader.next().await {
                position += bytes.len() as u64;
            }
            assert!(record.bounds().0 <= position.saturating_sub(MAX_IN_FLIGHT));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::join!(writing, taking);
}

#[tokio::test(start_paused = true)]
async fn tiny_pieces_of_two_streams_never_wait_for_a_reader_that_is_there() {
    let record = Record::default();
    let mut reader = record.read_from(0);
    let begin = Instant::now();
    for number in 0..200_000_u32 {
        record.reserve().await;
        record.append(1 + (number % 2) as u8, b"word");
        while reader.now().is_some() {}
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_reads_again_after_a_stall_is_waited_for_again() {
    let record = Record::default();
    let chunk = || record.append(1, &[0; MAX_CHUNK]);
    let mut reader = record.read_from(0);
    assert_eq!(reader.now(), Some(RecordEvent::Resumed(0)));
    for _ in 0..40 {
        chunk();
        assert!(reader.now().is_some());
    }
    // It stalls, and is overtaken: not where it stands, but in what it was given last.
    for _ in 0..48 {
        chunk();
    }
    let (start, _) = record.bounds();
    assert!((1..40 * MAX_CHUNK as u64).contains(&start), "{start}");
    tokio::time::sleep(STALL_TIMEOUT).await;
    assert!(matches!(reader.now(), Some(RecordEvent::Data(..))));
    let writing = async {
        for _ in 0..200 {
            record.reserve().await;
            chunk();
        }
        record.finish(exit());
    };
    let taking = async {
        loop {
            match reader.next().await {
                RecordEvent::Data(..) => tokio::time::sleep(Duration::from_millis(1)).await,
                RecordEvent::Exit(_) => return,
                RecordEvent::Resumed(offset) => panic!("overtaken at {offset}"),
            }
        }
    };
    tokio::join!(writing, taking);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_lets_the_writer_go_on() {
    let record = Record::default();
    let begin = Instant::now();
    let reader = record.read_from(0);
    for _ in 0..MAX_RECORD / MAX_CHUNK - 1 {
        record.reserve().await;
        record.append(1, &[0; MAX_CHUNK]);
    }
    let leaving = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(reader);
    };
    tokio::join!(record.reserve(), leaving);
    assert_eq!(begin.elapsed(), Duration::from_secs(1));
}
