//! Connections to ports of the sandbox's loopback.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use stacyvm_proto::DATA;
use stacyvm_proto::message::{Answer, Code, Failure, Forward, Opened};
use stacyvm_proto::mux::{Event, Receiver, Sender, Stream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::agent::Agent;
use crate::replies::{done, failure, reply};

/// Carries bytes between the peer and a port until both directions are closed.
pub(crate) async fn serve(agent: Arc<Agent>, forward: Forward, stream: Stream) {
    let Stream {
        sender,
        mut receiver,
    } = stream;
    // A send fails here only if the peer is gone, which then needs no answer.
    let connection = match connect(forward.port).await {
        Ok(connection) => connection,
        Err(refused) => {
            let _ = sender.last_message(&reply(Answer::Failure(refused))).await;
            return;
        }
    };
    if sender
        .message(&reply(Answer::Opened(Opened::default())))
        .await
        .is_err()
    {
        return;
    }
    let (read, write) = connection.into_split();
    let outwards = outwards(&agent, read, &sender);
    let inwards = inwards(write, &mut receiver);
    tokio::pin!(outwards, inwards);
    // The peer's reset ends both; the end of one direction does not end the other.
    let (mut out_open, mut in_open) = (true, true);
    while out_open || in_open {
        tokio::select! {
            () = &mut outwards, if out_open => out_open = false,
            peer_there = &mut inwards, if in_open => {
                in_open = false;
                if !peer_there {
                    return;
                }
            }
        }
    }
    let _ = sender.last_message(&done()).await;
}

async fn connect(port: u32) -> Result<TcpStream, Failure> {
    let port = u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| failure(Code::Invalid, format!("{port} is no port")))?;
    let refused = |error: &io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable => failure(
            Code::NotFound,
            format!("nothing listens on port {port} of the sandbox"),
        ),
        kind => failure(Code::Failed, format!("connect to port {port}: {kind}")),
    };
    let connection = match TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(connection) => connection,
        Err(first) => TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port)))
            .await
            .map_err(|_| refused(&first))?,
    };
    // Small writes go out at once instead of being collected.
    let _ = connection.set_nodelay(true);
    Ok(connection)
}

/// Copies from the port to the peer until the port's side is closed or the stream has ended.
async fn outwards(agent: &Agent, read: OwnedReadHalf, sender: &Sender) {
    while let Ok(room) = sender.reserve(DATA).await {
        let count = loop {
            if read.readable().await.is_err() {
                break 0;
            }
            let mut buffer = agent.read_buffer.lock();
            let most = room.min(buffer.len());
            match read.try_read(&mut buffer[..most]) {
                Ok(count) => {
                    if sender.send_reserved(DATA, &buffer[..count]).is_err() {
                        return;
                    }
                    break count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break 0,
            }
        };
        if count == 0 {
            let _ = sender.finish(DATA);
            return;
        }
    }
}

/// Copies from the peer to the port; answers whether the peer is still there at the end.
async fn inwards(mut write: OwnedWriteHalf, receiver: &mut Receiver) -> bool {
    let mut port_takes = true;
    let mut finished = false;
    loop {
        match receiver.receive().await {
            Event::Data(channel, bytes) => {
                port_takes = port_takes && write.write_all(&bytes).await.is_ok();
                receiver.release(channel, bytes.len());
            }
            Event::Finished(DATA) => {
                // The port may have closed first.
                let _ = write.shutdown().await;
                finished = true;
            }
            Event::Finished(_) | Event::Message(_) => {}
            Event::Closed(_) => return false,
        }
        if finished {
            return true;
        }
    }
}
