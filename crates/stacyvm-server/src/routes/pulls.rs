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

use crate::body::Json;
use crate::error::{Failure, Reply};
use crate::ndjson::LineBody;
use crate::openapi::failures::{ImageErrors, JsonBodyErrors};
use crate::openapi::shapes::PullLines;
use crate::response::{NDJSON, ok, streamed};
use crate::state::SharedState;

/// Events that wait between a pull and the connection.
const CHANNEL_DEPTH: usize = 64;

/// What a pull reports.
enum PullEvent {
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
        ImageErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn pull(
    State(state): State<SharedState>,
    Json(request): Json<PullRequest>,
) -> Reply {
    let images = state.orchestrator.images(request.provider.as_deref())?;
    if !request.stream.unwrap_or(false) {
        return Ok(ok(&images.pull(&request, None).await?));
    }
    let (sender, mut events) = mpsc::channel(CHANNEL_DEPTH);
    tokio::spawn(run_pull(images, request, sender).in_current_span());
    // A failure before the first line is an ordinary answer.
    let first = match events.recv().await {
        Some(PullEvent::End(end)) => PullEvent::End(Box::new(Ok((*end)?))),
        Some(line) => line,
        None => return Err(Failure::internal("the pull ended without a word")),
    };
    let body = LineBody::new(events, None, state.cut(), write).starting_with(first);
    Ok(streamed(NDJSON, Body::new(body)))
}

/// Pulls and reports, until the pull ends or the receiver is dropped.
async fn run_pull(images: Images, request: PullRequest, events: mpsc::Sender<PullEvent>) {
    let (progress, mut lines) = mpsc::channel(CHANNEL_DEPTH);
    let pulling = async {
        let mut pulling = std::pin::pin!(images.pull(&request, Some(progress)));
        loop {
            tokio::select! {
                biased;
                Some(line) = lines.recv() => {
                    let _ = events.send(PullEvent::Line(line)).await;
                }
                end = &mut pulling => {
                    let _ = events.send(PullEvent::End(Box::new(end))).await;
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = pulling => {}
        () = events.closed() => {}
    }
}

fn write(buffer: &mut BytesMut, event: PullEvent) -> bool {
    let (line, last) = match event {
        PullEvent::Line(line) => (line, false),
        PullEvent::End(end) => match *end {
            Ok(pulled) => (PullLine::Done(pulled), true),
            Err(error) => {
                let (code, message) = Failure::from(error).into_parts();
                let error = ApiError::new(code, message);
                (PullLine::Error { error }, true)
            }
        },
    };
    serde_json::to_writer(buffer.writer(), &line).expect("our own answers are always JSON");
    buffer.put_u8(b'\n');
    last
}
