//! Pulling an image: answered when it is there, or line by line.
//!
//! A client that goes away ends its pull, unless others wait for the same image.

use axum::body::Body;
use axum::extract::State;
use bytes::{BufMut, BytesMut};
use stacyvm_orchestrator::{Error, Images};
use stacyvm_types::{ApiError, PullLine, PullRequest, PulledImage};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::{NDJSON, ok, streamed};
use crate::body::Json;
use crate::error::{Failure, Reply};
use crate::front::Shared;
use crate::ndjson::LineBody;
use crate::openapi::{JsonBody, OfImages, PullLines};

/// Words between a pull and who reads of it.
const DEPTH: usize = 64;

/// What comes of a pull, as it comes.
enum Word {
    Line(PullLine),
    End(Box<Result<PulledImage, Error>>),
}

/// Makes an image be there.
///
/// Answers when it is; with `stream`, says how far it is, one `PullLine` a line. The last line has
/// the status `done` or `error`.
#[utoipa::path(
    post, path = "/api/v1/images/pull", tag = "images",
    request_body = PullRequest,
    responses(
        (
            status = 200,
            description = "The image is there; or the lines of how it gets there.",
            content((PulledImage = "application/json"), (PullLines = "application/x-ndjson")),
        ),
        OfImages,
        JsonBody,
    ),
)]
pub(super) async fn pull(State(front): State<Shared>, Json(request): Json<PullRequest>) -> Reply {
    let images = front.orchestrator.images(request.provider.as_deref())?;
    if !request.stream.unwrap_or(false) {
        return Ok(ok(&images.pull(&request, None).await?));
    }
    let (sender, mut words) = mpsc::channel(DEPTH);
    tokio::spawn(tell(images, request, sender).in_current_span());
    // What fails before anything was said is an answer like any other.
    let first = match words.recv().await {
        Some(Word::End(end)) => Word::End(Box::new(Ok((*end)?))),
        Some(line) => line,
        None => return Err(Failure::internal("the pull ended without a word")),
    };
    let body = LineBody::new(words, None, front.cut(), write).starting_with(first);
    Ok(streamed(NDJSON, Body::new(body)))
}

/// Pulls, and tells; until it is done or nobody listens.
async fn tell(images: Images, request: PullRequest, words: mpsc::Sender<Word>) {
    let (progress, mut lines) = mpsc::channel(DEPTH);
    let pulling = async {
        let mut pulling = std::pin::pin!(images.pull(&request, Some(progress)));
        loop {
            tokio::select! {
                biased;
                Some(line) = lines.recv() => {
                    let _ = words.send(Word::Line(line)).await;
                }
                end = &mut pulling => {
                    let _ = words.send(Word::End(Box::new(end))).await;
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = pulling => {}
        () = words.closed() => {}
    }
}

fn write(buffer: &mut BytesMut, word: Word) -> bool {
    let (line, last) = match word {
        Word::Line(line) => (line, false),
        Word::End(end) => match *end {
            Ok(pulled) => (PullLine::Done(pulled), true),
            Err(error) => {
                let (code, message) = Failure::from(error).told();
                let error = ApiError::new(code, message);
                (PullLine::Error { error }, true)
            }
        },
    };
    serde_json::to_writer(buffer.writer(), &line).expect("our own answers are always JSON");
    buffer.put_u8(b'\n');
    last
}
