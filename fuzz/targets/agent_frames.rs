//! Frames from the other end of an agent's connection: of any kind, in any order, to the accepting
//! side and to the connecting one, and the messages in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use stacyvm_proto::message::{Configure, Done, Hello, HelloReply, Open, Reply};
use stacyvm_proto::mux::{self, Event, Incoming, Mux, Side, Stream};
use stacyvm_proto::{HEADER_LEN, Header, MAX_PAYLOAD};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    if let Some(header) = bytes.first_chunk::<HEADER_LEN>()
        && let Ok(decoded) = Header::decode(header)
    {
        assert!(decoded.length as usize <= MAX_PAYLOAD);
        // The last two bytes are reserved and may hold anything.
        assert_eq!(decoded.encode()[..10], header[..10]);
    }
    messages(bytes);
    let side = if choice & 1 == 0 {
        Side::Accepting
    } else {
        Side::Connecting
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without I/O")
        .block_on(connection(bytes, side, usize::from(choice >> 5)));
});

/// Decodes the bytes as every message that a frame can hold.
fn messages(bytes: &[u8]) {
    if let Ok(open) = Open::decode(bytes) {
        assert_eq!(Open::decode(open.encode_to_vec().as_slice()), Ok(open));
    }
    let _ = Hello::decode(bytes);
    let _ = HelloReply::decode(bytes);
    let _ = Configure::decode(bytes);
    let _ = Reply::decode(bytes);
}

/// Serves a whole connection, with streams that are read from beginning to end.
async fn connection(bytes: &[u8], side: Side, opened: usize) {
    let (mux, incoming, driver) = mux::start(bytes, tokio::io::sink(), side);
    let ours: Vec<Stream> = (0..opened)
        .filter_map(|_| mux.open(&Done {}).ok())
        .collect();
    let driving = async {
        let _ = driver.run().await;
    };
    tokio::join!(driving, read_ours(&mux, ours), accept(incoming));
    assert!(mux.is_closed());
}

async fn read_ours(mux: &Mux, ours: Vec<Stream>) {
    for mut stream in ours {
        read(&mut stream).await;
    }
    mux.closed().await;
}

async fn accept(mut incoming: Incoming) {
    while let Some(mut accepted) = incoming.accept().await {
        let _ = Open::decode(accepted.request.clone());
        let _ = accepted.stream.sender.message(&Done {}).await;
        read(&mut accepted.stream).await;
    }
}

/// Reads everything and gives the credit back, as both real ends do.
async fn read(stream: &mut Stream) {
    loop {
        match stream.receiver.receive().await {
            Event::Data(channel, bytes) => stream.receiver.release(channel, bytes.len()),
            Event::Closed(_) => return,
            Event::Message(_) | Event::Finished(_) => {}
        }
    }
}
