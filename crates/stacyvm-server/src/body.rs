//! Request bodies: their greatest length, and JSON.
//!
//! The door decides on the head. Of what it lets in, small bodies are read before the route is asked,
//! so that a refusal does not leave unread bytes on a connection (the client would see a reset
//! instead of the answer). A client that waits for `100 Continue` has sent nothing yet: its body is
//! not touched before the route reads it.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::error::Failure;
use crate::paced_body::TooSlow;
use crate::state::SharedState;

/// A body of at most this length is read at once.
const MAX_BUFFERED_BODY: u64 = 64 * 1024;
/// How much of a refused body is read, so that the client gets to read the answer.
const MAX_DRAINED_BYTES: u64 = 64 * 1024 * 1024;
/// How long reading a refused body may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The length that the client announced.
pub(crate) fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether the client waits for `100 Continue` before it sends its body. HTTP sends that by itself
/// when the body is first read.
pub(crate) fn is_held_back(headers: &HeaderMap) -> bool {
    let expected = headers.get(EXPECT).map(|value| value.as_bytes());
    expected.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"))
}

/// The next piece of a body; none at its end.
pub(crate) async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, Failure> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(broken(&error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn broken(error: &axum::Error) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<TooSlow>() {
            return Failure::bad_request("the request body stopped coming, or came too slowly");
        }
        cause = error.source();
    }
    Failure::bad_request("the request body ended before its end")
}

/// Reads a small body into memory.
pub(crate) async fn buffer_small(request: Request) -> Result<Request, Failure> {
    if request.body().is_end_stream() || is_held_back(request.headers()) {
        return Ok(request);
    }
    match announced_length(request.headers()) {
        Some(length) if length <= MAX_BUFFERED_BODY => {
            let (parts, body) = request.into_parts();
            let bytes = read_all(body, MAX_BUFFERED_BODY).await?;
            Ok(Request::from_parts(parts, Body::from(bytes)))
        }
        _ => Ok(request),
    }
}

/// Lets the body of a refused request go unless the client still keeps it.
pub(crate) async fn refuse(headers: &HeaderMap, body: Body) {
    if !is_held_back(headers) {
        drain(body).await;
    }
}

/// Reads what is left of a refused body, within bounds.
pub(crate) async fn drain(mut body: Body) {
    let reading = async {
        let mut seen = 0;
        while seen < MAX_DRAINED_BYTES {
            match body.frame().await {
                Some(Ok(frame)) => seen += frame.data_ref().map_or(0, |data| data.len() as u64),
                Some(Err(_)) | None => break,
            }
        }
    };
    // After the timeout the answer is sent anyway.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
}

async fn read_all(mut body: Body, limit: u64) -> Result<Bytes, Failure> {
    let Some(first) = next_chunk(&mut body).await? else {
        return Ok(Bytes::new());
    };
    if first.len() as u64 <= limit && body.is_end_stream() {
        return Ok(first);
    }
    let mut all = Vec::from(first);
    while let Some(piece) = next_chunk(&mut body).await? {
        all.extend_from_slice(&piece);
        if all.len() as u64 > limit {
            break;
        }
    }
    if all.len() as u64 > limit {
        drain(body).await;
        return Err(over(limit));
    }
    Ok(all.into())
}

/// A whole body of raw bytes, at most `limit` of them.
pub(crate) async fn read_raw(request: Request, limit: usize) -> Result<Bytes, Failure> {
    let limit = limit as u64;
    let (parts, body) = request.into_parts();
    if announced_length(&parts.headers).is_some_and(|length| length > limit) {
        refuse(&parts.headers, body).await;
        return Err(over(limit));
    }
    read_all(body, limit).await
}

/// The failure for a body over the limit.
pub(crate) fn over(limit: u64) -> Failure {
    let limit = if limit.is_multiple_of(1024 * 1024) {
        format!("{} MiB", limit / (1024 * 1024))
    } else {
        format!("{limit} bytes")
    };
    Failure::too_large(format!("the request body is longer than {limit}"))
}

/// A whole JSON body as bytes, not empty.
pub(crate) struct JsonBytes(pub(crate) Bytes);

impl FromRequest<SharedState> for JsonBytes {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &SharedState) -> Result<Self, Failure> {
        let bytes = read_raw(request, state.json_limit).await?;
        if bytes.trim_ascii().is_empty() {
            return Err(Failure::bad_request(
                "the request body is empty where a JSON object is needed",
            ));
        }
        Ok(Self(bytes))
    }
}

impl JsonBytes {
    /// The object in it. The content type is not looked at.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let text = std::str::from_utf8(&self.0)
            .map_err(|_| Failure::bad_request("malformed JSON: it is not UTF-8"))?;
        // Derived structs would take an array for their fields in order.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(match serde_json::from_str::<serde::de::IgnoredAny>(text) {
                Ok(_) => Failure::bad_request("the request body must be a JSON object"),
                Err(error) => malformed(&error),
            });
        }
        serde_json::from_str(text).map_err(|error| malformed(&error))
    }
}

/// A JSON body, parsed.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<SharedState> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &SharedState) -> Result<Self, Failure> {
        let bytes = JsonBytes::from_request(request, state).await?;
        bytes.parse().map(Self)
    }
}

/// A JSON body, parsed; none at all is the default.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<SharedState> for OptionalJson<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &SharedState) -> Result<Self, Failure> {
        let bytes = read_raw(request, state.json_limit).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        JsonBytes(bytes).parse().map(Self)
    }
}

/// Says what is wrong with a JSON text without repeating what stands there: it may be secret.
fn malformed(error: &serde_json::Error) -> Failure {
    let place = format!("line {} column {}", error.line(), error.column());
    match error.classify() {
        Category::Data => {
            let text = error.to_string();
            let text = text
                .rsplit_once(" at line ")
                .map_or(text.as_str(), |(text, _)| text);
            let what = match text.rsplit_once(", expected ") {
                Some((_, expected)) => format!("expected {expected}"),
                None if text.starts_with("missing field")
                    || text.starts_with("duplicate field") =>
                {
                    text.to_owned()
                }
                None => "a field has a value that it cannot have".to_owned(),
            };
            Failure::bad_request(format!("invalid request: {what}, at {place}"))
        }
        Category::Syntax | Category::Eof | Category::Io => {
            Failure::bad_request(format!("malformed JSON at {place}"))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Sample {
        path: String,
        #[serde(default)]
        depth: Option<u32>,
    }

    fn parse(text: &str) -> Result<Sample, Failure> {
        JsonBytes(Bytes::copy_from_slice(text.as_bytes())).parse()
    }

    #[test]
    fn objects_are_taken_and_unknown_fields_ignored() {
        let sample = parse(" {\"path\":\"/x\",\"depth\":null,\"more\":{\"a\":[1]}} ").unwrap();
        assert_eq!((sample.path.as_str(), sample.depth), ("/x", None));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_value() {
        for (text, words) in [
            ("{", "malformed JSON at line 1"),
            ("{\"path\":\"/x\"} trailing", "malformed JSON"),
            ("hunter2", "malformed JSON"),
            ("[\"hunter2\",3]", "must be a JSON object"),
            ("\"hunter2\"", "must be a JSON object"),
            ("null", "must be a JSON object"),
            ("{}", "missing field `path`"),
            (
                "{\"path\":\"a\",\"path\":\"hunter2\"}",
                "duplicate field `path`",
            ),
            ("{\"path\":\"x\",\"depth\":\"hunter2\"}", "expected u32"),
            (
                "{\"path\":\"x\",\"depth\":\"hunter2, expected y\"}",
                "expected u32",
            ),
            ("{\"path\":\"x\",\"depth\":-5}", "expected u32"),
            ("{\"path\":\"\u{1}\"}", "malformed JSON"),
        ] {
            let message = parse(text).unwrap_err().message().to_owned();
            assert!(message.contains(words), "{text}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
