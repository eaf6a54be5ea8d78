//! A followed log as NDJSON: `{"line":"…"}` for each line, `{"skipped":N}` where output was lost.
//!
//! As with a streamed exec nothing is written ahead. The end of the sandbox is the end of the
//! body; whatever else ends the log breaks it off, so that a client does not take it for whole.

use std::pin::Pin;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::unfold;
use serde::Serialize;
use stacyvm_orchestrator::{FollowedLogs, LogBatch};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::download::BodyError;
use crate::ndjson::write_json;

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum LogLine<'a> {
    Line(&'a str),
    Skipped(u64),
}

/// A followed log, and what ends it early.
struct LogFeed {
    logs: FollowedLogs,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// The body that follows `logs`.
pub(crate) fn body(logs: FollowedLogs, cut: WaitForCancellationFutureOwned) -> Body {
    let feed = LogFeed {
        logs,
        cut: Box::pin(cut),
    };
    Body::from_stream(unfold(feed, |mut feed| async move {
        let piece = tokio::select! {
            biased;
            () = &mut feed.cut => Err(BodyError::from("the server is shutting down")),
            batch = feed.logs.next() => batch?.map(|batch| lines(&batch)).map_err(BodyError::from),
        };
        Some((piece, feed))
    }))
}

fn lines(batch: &LogBatch) -> Bytes {
    let mut buffer = BytesMut::new();
    let skipped = Some(batch.skipped).filter(|bytes| *bytes > 0);
    let lines = batch.lines.iter().map(|line| LogLine::Line(line));
    for item in skipped.map(LogLine::Skipped).into_iter().chain(lines) {
        write_json(&mut buffer, &item);
        buffer.put_u8(b'\n');
    }
    buffer.freeze()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_objects_and_what_is_missing_comes_first() {
        let batch = LogBatch {
            skipped: 7,
            lines: vec!["a\"\u{2028}".to_owned(), String::new()],
        };
        let text = String::from_utf8(lines(&batch).to_vec()).unwrap();
        assert_eq!(
            text,
            "{\"skipped\":7}\n{\"line\":\"a\\\"\\u2028\"}\n{\"line\":\"\"}\n"
        );
    }
}
