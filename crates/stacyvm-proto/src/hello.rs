//! The first exchange on a connection, before any stream opens: each side introduces itself.
//!
//! These functions read exactly the bytes of one frame, so that the multiplexer can take the
//! connection over afterwards. The caller sets deadlines.

use std::io;

use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::frame::{FrameError, HEADER_LEN, Header, Kind};
use crate::message::{Code, Failure, Hello, HelloReply};
use crate::version::{GENERATION, OLDEST_GENERATION, negotiate};

/// Why the hello failed.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The connection broke.
    #[error("connection lost during hello")]
    Io(#[from] io::Error),
    /// The peer's bytes are no frame.
    #[error("the peer does not speak the agent protocol")]
    Frame(#[from] FrameError),
    /// The peer's frame contains no hello.
    #[error("the peer's hello cannot be read")]
    Decode(#[from] prost::DecodeError),
    /// The peer refused, or there is no common generation.
    #[error("{0}")]
    Refused(String),
}

/// Sends `hello` and waits for the answer; for the connecting side.
///
/// # Errors
/// When the connection breaks, or the peer refuses.
pub async fn say_hello<R, W>(
    read: &mut R,
    write: &mut W,
    mut hello: Hello,
) -> Result<HelloReply, HelloError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    hello.generation_min = OLDEST_GENERATION;
    hello.generation_max = GENERATION;
    send(write, &hello).await?;
    let reply = HelloReply::decode(receive(read).await?.as_slice())?;
    if let Some(refused) = reply.refused {
        return Err(HelloError::Refused(refused.message));
    }
    if !(OLDEST_GENERATION..=GENERATION).contains(&reply.generation) {
        return Err(HelloError::Refused(format!(
            "the agent chose generation {} of the protocol, which was not offered",
            reply.generation
        )));
    }
    Ok(reply)
}

/// Waits for a hello and answers it with `reply` in the common generation, or with a refusal that
/// names the supported generations; for the accepting side.
///
/// # Errors
/// When the connection breaks, the peer sends no hello, or there is no common generation.
pub async fn answer_hello<R, W>(
    read: &mut R,
    write: &mut W,
    mut reply: HelloReply,
) -> Result<Hello, HelloError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let hello = Hello::decode(receive(read).await?.as_slice())?;
    let theirs = (hello.generation_min, hello.generation_max);
    if let Some(generation) = negotiate((OLDEST_GENERATION, GENERATION), theirs) {
        reply.generation = generation;
        send(write, &reply).await?;
        return Ok(hello);
    }
    let message = format!(
        "no common protocol generation: the agent speaks {OLDEST_GENERATION} to {GENERATION}, the peer {} to {}",
        theirs.0, theirs.1
    );
    reply.refused = Some(Failure {
        code: Code::Unsupported.into(),
        message: message.clone(),
    });
    send(write, &reply).await?;
    Err(HelloError::Refused(message))
}

async fn send<W: AsyncWrite + Unpin>(
    write: &mut W,
    message: &impl prost::Message,
) -> Result<(), HelloError> {
    let length = message.encoded_len();
    let header = Header::new(Kind::Hello, 0, 0, u32::try_from(length).unwrap_or(u32::MAX)).encode();
    // The peer checks the same bound.
    Header::decode(&header)?;
    let mut bytes = Vec::with_capacity(HEADER_LEN + length);
    bytes.extend_from_slice(&header);
    message.encode_raw(&mut bytes);
    write.write_all(&bytes).await?;
    write.flush().await?;
    Ok(())
}

async fn receive<R: AsyncRead + Unpin>(read: &mut R) -> Result<Vec<u8>, HelloError> {
    let mut header = [0; HEADER_LEN];
    read.read_exact(&mut header).await?;
    let header = Header::decode(&header)?;
    match Kind::from_number(header.kind) {
        Some(Kind::Hello) => {}
        Some(kind) => return Err(FrameError::Unexpected(kind).into()),
        None => {
            return Err(HelloError::Refused(
                "the peer's first frame is no hello".into(),
            ));
        }
    }
    let mut payload = vec![0; header.length as usize];
    read.read_exact(&mut payload).await?;
    Ok(payload)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn both_sides_learn_of_each_other() {
        let (host, agent) = tokio::io::duplex(4096);
        let (mut host_read, mut host_write) = tokio::io::split(host);
        let (mut agent_read, mut agent_write) = tokio::io::split(agent);
        let reply = HelloReply {
            program: "agent".into(),
            ..HelloReply::default()
        };
        let (said, heard) = tokio::join!(
            say_hello(&mut host_read, &mut host_write, Hello::default()),
            answer_hello(&mut agent_read, &mut agent_write, reply),
        );
        assert_eq!(said.unwrap().generation, GENERATION);
        assert_eq!(heard.unwrap().generation_max, GENERATION);
    }

    #[tokio::test]
    async fn a_peer_of_another_age_hears_why() {
        let (host, agent) = tokio::io::duplex(4096);
        let (mut host_read, mut host_write) = tokio::io::split(host);
        let (mut agent_read, mut agent_write) = tokio::io::split(agent);
        let hello = Hello {
            generation_min: 7,
            generation_max: 9,
            ..Hello::default()
        };
        send(&mut host_write, &hello).await.unwrap();
        let refused = answer_hello(&mut agent_read, &mut agent_write, HelloReply::default()).await;
        assert!(matches!(refused, Err(HelloError::Refused(_))));
        let reply = HelloReply::decode(receive(&mut host_read).await.unwrap().as_slice()).unwrap();
        assert!(reply.refused.unwrap().message.contains("7 to 9"));
    }
}
