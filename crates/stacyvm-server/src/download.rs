//! Bodies that are read from a sandbox while they are sent.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{Stream, StreamExt};
use http_body::{Body, Frame, SizeHint};
use stacyvm_orchestrator::{ByteStream, Error};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tracing::Span;

use crate::error::Chain;

/// Why a body was aborted; the client sees a connection that ends before its answer does.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a file or archive answer.
pub(crate) struct ByteBody<S = ByteStream> {
    /// The piece that was waited for before the answer began.
    first: Option<Bytes>,
    source: S,
    /// How many bytes were promised; none where the length is not known.
    left: Option<u64>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    done: bool,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    span: Span,
}

impl<S> ByteBody<S> {
    pub(crate) fn new(
        first: Option<Bytes>,
        source: S,
        left: Option<u64>,
        cut: WaitForCancellationFutureOwned,
    ) -> Self {
        Self {
            first,
            source,
            left,
            gzip: None,
            done: left == Some(0),
            cut: Box::pin(cut),
            span: Span::current(),
        }
    }

    /// Packs what comes. The length is not known then.
    pub(crate) fn gzipped(mut self) -> Self {
        self.left = None;
        self.gzip = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        self
    }

    fn break_off(&mut self, error: BodyError) -> BodyError {
        self.done = true;
        self.span
            .in_scope(|| tracing::warn!(error = %Chain(error.as_ref()), "download broken off"));
        error
    }

    /// Packs a piece; an empty result means that nothing is ready yet.
    fn pack(&mut self, piece: Bytes) -> Result<Bytes, BodyError> {
        let Some(gzip) = &mut self.gzip else {
            return Ok(piece);
        };
        gzip.write_all(&piece)?;
        Ok(std::mem::take(gzip.get_mut()).into())
    }

    /// Cuts a piece to what was promised.
    fn clip(&mut self, mut piece: Bytes) -> Bytes {
        if let Some(left) = &mut self.left {
            piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= piece.len() as u64;
            self.done = *left == 0;
        }
        piece
    }
}

impl<S> Body for ByteBody<S>
where
    S: Stream<Item = Result<Bytes, Error>> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            if this.done {
                return Poll::Ready(None);
            }
            let next = match this.first.take() {
                Some(first) => Some(Ok(first)),
                None => match this.source.poll_next_unpin(context) {
                    Poll::Ready(next) => next.map(|piece| piece.map_err(BodyError::from)),
                    Poll::Pending => {
                        if this.cut.as_mut().poll(context).is_pending() {
                            return Poll::Pending;
                        }
                        Some(Err(BodyError::from("the server is shutting down")))
                    }
                },
            };
            match next {
                Some(Ok(piece)) => {
                    let piece = this.pack(piece)?;
                    let piece = this.clip(piece);
                    if !piece.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(piece))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(this.break_off(error)))),
                None => {
                    if this.left.is_some_and(|left| left > 0) {
                        let error = BodyError::from("the file became shorter");
                        return Poll::Ready(Some(Err(this.break_off(error))));
                    }
                    this.done = true;
                    if let Some(gzip) = this.gzip.take() {
                        return Poll::Ready(Some(Ok(Frame::data(gzip.finish()?.into()))));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use futures_util::stream;
    use http_body_util::BodyExt;
    use std::io::Read;
    use tokio_util::sync::CancellationToken;

    type Pieces = Vec<Result<Bytes, Error>>;

    fn body(
        pieces: &[&'static str],
        left: Option<u64>,
    ) -> ByteBody<stream::Iter<std::vec::IntoIter<Result<Bytes, Error>>>> {
        let pieces: Pieces = pieces
            .iter()
            .map(|piece| Ok(Bytes::from_static(piece.as_bytes())))
            .collect();
        let source = stream::iter(pieces);
        let first = Some(Bytes::from_static(b"first "));
        ByteBody::new(
            first,
            source,
            left,
            CancellationToken::new().cancelled_owned(),
        )
    }

    async fn collect(body: impl Body<Data = Bytes, Error = BodyError>) -> Result<Bytes, BodyError> {
        Ok(body.collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn a_promised_length_is_kept_or_the_body_breaks() {
        let exact = body(&["second", " third"], Some(18));
        assert_eq!(exact.size_hint().exact(), Some(18));
        assert_eq!(collect(exact).await.unwrap(), "first second third");
        let grown = body(&["second", " third"], Some(9));
        assert_eq!(collect(grown).await.unwrap(), "first sec");
        assert!(collect(body(&["second"], Some(13))).await.is_err());
        assert_eq!(
            collect(body(&["second"], None)).await.unwrap(),
            "first second"
        );
    }

    #[tokio::test]
    async fn a_failure_on_the_way_breaks_the_body() {
        let failed = Error::Provider {
            provider: "fake".to_owned(),
            message: "EIO".to_owned(),
            source: None,
        };
        let source = stream::iter([Err(failed)]);
        let cut = CancellationToken::new();
        let mut broken = ByteBody::new(None, source, None, cut.clone().cancelled_owned());
        assert!(broken.frame().await.unwrap().is_err());
        assert!(broken.frame().await.is_none());
        let source = stream::pending();
        let mut stopped = ByteBody::new(None, source, None, cut.clone().cancelled_owned());
        cut.cancel();
        assert!(stopped.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn packed_bodies_unpack_to_what_was_sent() {
        let packed = collect(body(&["second"], None).gzipped()).await.unwrap();
        let mut text = String::new();
        GzDecoder::new(packed.as_ref())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "first second");
    }
}
