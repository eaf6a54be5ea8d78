//! Bytes on their way into a sandbox or a provider.
//!
//! The consumer commits when it sees the end of the data, so an end that is none must never look
//! like one: a sender that is dropped without [`UploadSender::finish`] puts an error into the
//! channel. A slot for it is reserved from the start.

use bytes::Bytes;
use stacyvm_provider::ops::{ByteReceiver, ByteSender, OpError};
use tokio::sync::mpsc::{self, OwnedPermit};

/// The end of an upload that takes bytes.
#[derive(Debug)]
pub struct UploadSender {
    sender: ByteSender,
    /// Room for the error that ends a broken upload; none once the upload is finished.
    abort: Option<OwnedPermit<Result<Bytes, OpError>>>,
}

/// The end of an upload that a sandbox or a provider reads.
#[derive(Debug)]
pub struct UploadData(ByteReceiver);

/// The consumer of an upload wants no more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing reads the upload any more")]
pub struct UploadClosed;

/// An upload broke off before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upload was broken off")]
pub struct UploadAborted;

/// An upload that holds at most `depth` pieces, at least 2.
pub fn upload(depth: usize) -> (UploadSender, UploadData) {
    let (sender, receiver) = mpsc::channel(depth.max(2));
    let abort = sender.clone().try_reserve_owned().ok();
    (UploadSender { sender, abort }, UploadData(receiver))
}

impl UploadSender {
    /// Hands a piece on; waits while the consumer is behind.
    ///
    /// # Errors
    /// When the consumer has finished.
    pub async fn send(&self, piece: Bytes) -> Result<(), UploadClosed> {
        self.sender.send(Ok(piece)).await.map_err(|_| UploadClosed)
    }

    /// The proper end of the data.
    pub fn finish(mut self) {
        self.abort = None;
    }
}

impl Drop for UploadSender {
    fn drop(&mut self) {
        if let Some(permit) = self.abort.take() {
            permit.send(Err(OpError::Gone(UploadAborted.to_string())));
        }
    }
}

impl UploadData {
    /// The next piece; none at the proper end.
    pub async fn next(&mut self) -> Option<Result<Bytes, UploadAborted>> {
        let piece = self.0.recv().await?;
        Some(piece.map_err(|_| UploadAborted))
    }

    pub(crate) fn into_receiver(self) -> ByteReceiver {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(mut data: UploadData) -> Result<Vec<u8>, UploadAborted> {
        let mut all = Vec::new();
        while let Some(piece) = data.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn only_a_finished_upload_ends_without_an_error() {
        let (sender, data) = upload(8);
        sender.send(Bytes::from_static(b"ab")).await.unwrap();
        sender.finish();
        assert_eq!(collect(data).await, Ok(b"ab".to_vec()));
        let (sender, data) = upload(2);
        sender.send(Bytes::from_static(b"ab")).await.unwrap();
        drop(sender);
        assert_eq!(collect(data).await, Err(UploadAborted));
    }

    #[tokio::test]
    async fn a_consumer_that_has_finished_takes_no_more() {
        let (sender, data) = upload(2);
        drop(data);
        assert_eq!(sender.send(Bytes::new()).await, Err(UploadClosed));
    }
}
