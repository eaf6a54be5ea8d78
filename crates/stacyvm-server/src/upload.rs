//! Bodies that are written into a sandbox while they arrive, bounded in memory and in length.
//!
//! The sandbox commits when it sees the end of the data, so an end that is none must never look
//! like one: whatever goes wrong here, also that this very request is dropped, leaves the upload
//! unfinished, which its reader sees as an error.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use stacyvm_orchestrator::{Error, UploadData, UploadSender, upload};

use crate::body::{announced_length, drain, next_chunk, over, refuse};
use crate::error::Failure;
use crate::gunzip::Gunzip;

/// Chunks in flight between the connection and the sandbox.
const CHANNEL_DEPTH: usize = 8;
/// The largest chunk that is handed on, bytes.
const CHUNK_SIZE: usize = 64 * 1024;
/// How long a sandbox may take to let go of an upload that failed.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

/// What an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadKind {
    /// Bytes to be kept as they are.
    Plain,
    /// An archive, unpacked on the way when it is gzip.
    Archive,
}

/// Feeds a request body to `consume` while it works.
///
/// # Errors
/// What is wrong with the request, or why the consumer refuses the data.
pub(crate) async fn feed<T, F>(
    headers: &HeaderMap,
    body: Body,
    limit: u64,
    kind: UploadKind,
    consume: impl FnOnce(UploadData) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Error>>,
{
    if announced_length(headers).is_some_and(|length| length > limit) {
        refuse(headers, body).await;
        return Err(over(limit));
    }
    let (sender, data) = upload(CHANNEL_DEPTH);
    let mut body = body;
    let outcome = {
        let mut consuming = pin!(consume(data));
        let mut pumping = pin!(pump(&mut body, sender, limit, kind));
        tokio::select! {
            biased;
            consumed = &mut consuming => Outcome::Consumed(consumed),
            pumped = &mut pumping => match pumped {
                Ok(sender) => {
                    sender.finish();
                    return Ok(consuming.await?);
                }
                Err(failure) => {
                    // The sender is dropped unfinished, which the consumer sees. The consumer must
                    // have let go before the client hears of the failure and tries again.
                    let _ = tokio::time::timeout(ABORT_TIMEOUT, consuming).await;
                    Outcome::Failed(failure)
                }
            },
        }
    };
    match outcome {
        Outcome::Consumed(Ok(consumed)) => Ok(consumed),
        Outcome::Consumed(Err(error)) => {
            drain(body).await;
            Err(error.into())
        }
        Outcome::Failed(failure) => Err(failure),
    }
}

enum Outcome<T> {
    Consumed(Result<T, Error>),
    Failed(Failure),
}

/// Moves the body into the channel; returns the sender at the body's proper end.
async fn pump(
    body: &mut Body,
    sender: UploadSender,
    limit: u64,
    kind: UploadKind,
) -> Result<UploadSender, Failure> {
    let mut output = ChunkSender {
        sender,
        left: limit,
        limit,
    };
    let mut gunzip = None;
    if kind == UploadKind::Archive {
        let head = read_head(body).await?;
        if Gunzip::recognises(&head) {
            gunzip = Some(Gunzip::new());
        }
        output.take(&mut gunzip, head).await?;
    }
    while let Some(piece) = next_chunk(body).await? {
        output.take(&mut gunzip, piece).await?;
    }
    if let Some(gunzip) = gunzip {
        let rest = gunzip.finish().map_err(not_gzip)?;
        output.send(rest.into()).await?;
    }
    Ok(output.sender)
}

/// At least the bytes that tell gzip from tar, where there are that many.
async fn read_head(body: &mut Body) -> Result<Bytes, Failure> {
    let mut head = Bytes::new();
    while head.len() < Gunzip::MAGIC.len() {
        match next_chunk(body).await? {
            None => break,
            Some(piece) if head.is_empty() => head = piece,
            Some(piece) => head = [head.as_ref(), piece.as_ref()].concat().into(),
        }
    }
    Ok(head)
}

fn not_gzip(_: std::io::Error) -> Failure {
    Failure::bad_request("the archive begins like gzip but is not valid gzip")
}

struct ChunkSender {
    sender: UploadSender,
    left: u64,
    limit: u64,
}

impl ChunkSender {
    async fn take(&mut self, gunzip: &mut Option<Gunzip>, piece: Bytes) -> Result<(), Failure> {
        let Some(gunzip) = gunzip else {
            return self.send(piece).await;
        };
        // Small bites: each may unpack to a thousand times its length.
        for chunk in piece.chunks(Gunzip::CHUNK_SIZE) {
            let unpacked = gunzip.push(chunk).map_err(not_gzip)?;
            self.send(unpacked.into()).await?;
        }
        Ok(())
    }

    async fn send(&mut self, mut piece: Bytes) -> Result<(), Failure> {
        let length = piece.len() as u64;
        if length > self.left {
            return Err(over(self.limit));
        }
        self.left -= length;
        while !piece.is_empty() {
            let part = piece.split_to(piece.len().min(CHUNK_SIZE));
            if self.sender.send(part).await.is_err() {
                // The consumer has finished; its own word counts.
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use stacyvm_orchestrator::UploadAborted;
    use std::io::Write;

    /// Collects what arrives and whether it ended properly.
    async fn collect(mut data: UploadData) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        while let Some(piece) = data.next().await {
            let piece = piece.map_err(|error| Error::BadRequest(error.to_string()))?;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    async fn upload(
        body: Vec<u8>,
        limit: u64,
        kind: UploadKind,
    ) -> (Option<Vec<u8>>, Option<Failure>) {
        let headers = HeaderMap::new();
        let mut kept = None;
        let result = feed(&headers, Body::from(body), limit, kind, |receiver| {
            let kept = &mut kept;
            async move {
                *kept = Some(collect(receiver).await?);
                Ok::<(), Error>(())
            }
        })
        .await;
        let failure = result.err();
        if let Some(failure) = &failure {
            // The request's own failure, not what the consumer made of it.
            assert!(!failure.message().contains("broken off"), "{failure:?}");
        }
        (kept, failure)
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn plain_bytes_arrive_as_they_are() {
        let data: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let (kept, failure) = upload(data.clone(), 1 << 20, UploadKind::Plain).await;
        assert!(failure.is_none());
        assert_eq!(kept.unwrap(), data);
        let packed = gzip(&data);
        let (kept, _) = upload(packed.clone(), 1 << 20, UploadKind::Plain).await;
        assert_eq!(kept.unwrap(), packed);
    }

    #[tokio::test]
    async fn archives_are_unpacked_when_they_are_gzip() {
        let data = b"not really a tar".repeat(10_000);
        for body in [data.clone(), gzip(&data)] {
            let (kept, failure) = upload(body, 1 << 20, UploadKind::Archive).await;
            assert!(failure.is_none());
            assert_eq!(kept.unwrap(), data);
        }
        let (kept, _) = upload(Vec::new(), 10, UploadKind::Archive).await;
        assert_eq!(kept.unwrap(), Vec::<u8>::new());
    }

    #[tokio::test]
    async fn what_is_too_long_or_broken_is_never_committed() {
        let bomb = gzip(&vec![0; 2 << 20]);
        let mut cut = gzip(&b"some archive".repeat(1000));
        cut.truncate(cut.len() - 6);
        for (body, kind) in [
            (vec![0; (1 << 20) + 1], UploadKind::Plain),
            (bomb, UploadKind::Archive),
            (cut, UploadKind::Archive),
            (
                b"\x1f\x8bgarbage that is no gzip".to_vec(),
                UploadKind::Archive,
            ),
        ] {
            let (kept, failure) = upload(body, 1 << 20, kind).await;
            assert!(failure.is_some());
            assert_eq!(kept, None);
        }
    }

    #[tokio::test]
    async fn a_dropped_request_is_an_error_to_the_sandbox() {
        let (handed, mut receivers) = tokio::sync::mpsc::channel(1);
        let headers = HeaderMap::new();
        // A body of which nothing ever comes.
        let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, Error>>());
        {
            let feeding = feed(
                &headers,
                body,
                10,
                UploadKind::Plain,
                |receiver| async move {
                    handed.try_send(receiver).unwrap();
                    std::future::pending::<Result<(), Error>>().await
                },
            );
            let mut feeding = pin!(feeding);
            let polled = futures_util::poll!(&mut feeding);
            assert!(polled.is_pending());
        }
        let mut receiver: UploadData = receivers.recv().await.unwrap();
        assert_eq!(receiver.next().await, Some(Err(UploadAborted)));
        assert!(receiver.next().await.is_none());
    }
}
