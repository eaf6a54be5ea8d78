//! Bytes over an agent's pipes to either end of the link, in pieces of any size. After enough filler
//! the reader is always between two chunks.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use stacyvm_proto::link::{Decoder, Link, MAX_CHUNK_LEN, MAX_DATA, NONCE_LEN, connect};
use tokio::io::AsyncReadExt as _;

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else {
        return;
    };
    chunks(bytes, usize::from(piece) + 1);
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without I/O")
        .block_on(async {
            agent(bytes).await;
            // A host never believes what it could not have asked for.
            let nonce = [piece; NONCE_LEN];
            if let Ok((mut read, _write)) = connect(bytes, tokio::io::sink(), nonce).await {
                let mut heard = Vec::new();
                let _ = read.read_to_end(&mut heard).await;
                assert!(heard.len() < bytes.len());
            }
        });
});

fn chunks(bytes: &[u8], piece: usize) {
    let mut decoder = Decoder::default();
    let drain = |decoder: &mut Decoder| loop {
        match decoder.next_chunk() {
            Ok(None) => return,
            Ok(Some(chunk)) => assert!(chunk.data.len() <= MAX_DATA && chunk.kind != 0),
            Err(_) => {}
        }
    };
    for part in bytes.chunks(piece) {
        decoder.feed(part);
        drain(&mut decoder);
    }
    decoder.feed(&[0; MAX_CHUNK_LEN]);
    drain(&mut decoder);
    // A chunk of a later kind, without data, in session 0: found at once, whatever came before.
    let known = [6, 0, 0, 0, 0, 0, 0];
    decoder.feed(&known);
    assert_eq!(decoder.next_chunk(), Ok(None), "a header has eleven bytes");
}

async fn agent(bytes: &[u8]) {
    let mut link = Link::new(bytes, tokio::io::sink());
    while let Ok((mut read, _write)) = link.accept().await {
        let mut heard = Vec::new();
        let reading = read.read_to_end(&mut heard);
        let _ = tokio::time::timeout(Duration::from_secs(1), reading).await;
        assert!(heard.len() < bytes.len());
    }
}
