//! A connection to a TCP port inside a box.
//!
//! Owns the two forms that there are: a socket of the server's own inside the box's network, and
//! bytes that the agent carries. Its user sees a byte stream and no difference. Its rule:
//! a socket is only ever one of which no process inside has a descriptor, so nothing inside can change
//! how it behaves.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use crate::ops::{ByteReceiver, OpError};

/// Chunks that wait to be carried inside.
pub(super) const CHUNK_QUEUE: usize = 4;
/// The longest chunk.
const CHUNK_SIZE: usize = 64 * 1024;

/// A byte stream to and from a port. Dropping it closes both directions.
pub struct PortConnection(Form);

enum Form {
    Socket(TcpStream),
    Carried {
        inbound: PollSender<Bytes>,
        outbound: ByteReceiver,
        /// What has arrived and is not read yet.
        rest: Bytes,
    },
}

impl PortConnection {
    /// Over a socket that is connected to the port.
    pub fn socket(socket: TcpStream) -> Self {
        Self(Form::Socket(socket))
    }

    /// Over what [`forward`](crate::Ports::forward) gave.
    pub fn carried(inbound: mpsc::Sender<Bytes>, outbound: ByteReceiver) -> Self {
        Self(Form::Carried {
            inbound: PollSender::new(inbound),
            outbound,
            rest: Bytes::new(),
        })
    }

    /// Whether its bytes pass no agent.
    pub fn is_socket(&self) -> bool {
        matches!(self.0, Form::Socket(_))
    }
}

impl fmt::Debug for PortConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Form::Socket(_) => "PortConnection::Socket",
            Form::Carried { .. } => "PortConnection::Carried",
        })
    }
}

fn lost(error: OpError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for PortConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Form::Socket(socket) => Pin::new(socket).poll_read(context, buffer),
            Form::Carried { outbound, rest, .. } => {
                while rest.is_empty() {
                    match ready!(outbound.poll_recv(context)) {
                        Some(Ok(bytes)) => *rest = bytes,
                        Some(Err(error)) => return Poll::Ready(Err(lost(error))),
                        None => return Poll::Ready(Ok(())),
                    }
                }
                let count = rest.len().min(buffer.remaining());
                buffer.put_slice(&rest[..count]);
                rest.advance(count);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for PortConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Form::Socket(socket) => Pin::new(socket).poll_write(context, bytes),
            Form::Carried { inbound, .. } => {
                let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                ready!(inbound.poll_reserve(context)).map_err(closed)?;
                let count = bytes.len().min(CHUNK_SIZE);
                let chunk = Bytes::copy_from_slice(&bytes[..count]);
                inbound.send_item(chunk).map_err(closed)?;
                Poll::Ready(Ok(count))
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Form::Socket(socket) = &mut self.0 {
            return Pin::new(socket).poll_write_vectored(context, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(context, first.map_or(&[], |slice| slice))
    }

    fn is_write_vectored(&self) -> bool {
        self.is_socket()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Form::Socket(socket) => Pin::new(socket).poll_flush(context),
            Form::Carried { .. } => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Form::Socket(socket) => Pin::new(socket).poll_shutdown(context),
            Form::Carried { inbound, .. } => {
                inbound.close();
                Poll::Ready(Ok(()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn carried_bytes_keep_their_order_and_each_direction_ends_alone() {
        let (inbound, mut taken) = mpsc::channel(CHUNK_QUEUE);
        let (give, outbound) = mpsc::channel(CHUNK_QUEUE);
        let mut connection = PortConnection::carried(inbound, outbound);
        connection.write_all(b"abc").await.unwrap();
        connection.shutdown().await.unwrap();
        assert_eq!(taken.recv().await.unwrap(), "abc");
        assert_eq!(taken.recv().await, None);
        assert!(connection.write_all(b"late").await.is_err());
        give.send(Ok(Bytes::from_static(b"de"))).await.unwrap();
        give.send(Ok(Bytes::from_static(b"f"))).await.unwrap();
        drop(give);
        let mut read = String::new();
        connection.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "def");
    }

    #[tokio::test]
    async fn a_lost_box_is_an_error_and_not_an_end() {
        let (inbound, _taken) = mpsc::channel(CHUNK_QUEUE);
        let (give, outbound) = mpsc::channel(CHUNK_QUEUE);
        let mut connection = PortConnection::carried(inbound, outbound);
        give.send(Err(OpError::Gone("gone".to_owned())))
            .await
            .unwrap();
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
