//! One request: built, sent, its answer checked.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stacyvm_types::{ApiError, ErrorCode};

use crate::connection::{Body, Connection, Pool};
use crate::{Client, ClientError};

/// The longest answer that is read into memory at once, in bytes.
const MAX_ANSWER: usize = 512 << 20;

/// An answer whose body is still to be read; keeps its connection.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) connection: Connection,
}

/// A request that got no answer.
struct Unanswered {
    /// The request, when not a byte of it was taken.
    unsent: Option<Request<Body>>,
    source: hyper::Error,
}

/// The content of a request's body.
pub(crate) enum Payload {
    None,
    Json(Bytes),
    Stream(Body),
}

impl Payload {
    pub(crate) fn json(value: &impl Serialize) -> Self {
        Self::Json(
            serde_json::to_vec(value)
                .expect("our own types are always JSON")
                .into(),
        )
    }
}

impl Client {
    /// Sends and checks the status; an error answer becomes `ClientError::Api`.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        payload: Payload,
    ) -> Result<Answer, ClientError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.pool.prefix()))
            .header(HOST, self.pool.authority());
        for (name, value) in [("x-api-key", &self.api_key), ("x-user-id", &self.user_id)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let (request, bytes) = match payload {
            Payload::None => (request, None),
            Payload::Json(bytes) => (
                request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")),
                Some(bytes),
            ),
            Payload::Stream(body) => {
                let request = request.body(body).map_err(|error| self.unexpected(error))?;
                return self.send_once(request).await;
            }
        };
        let (parts, ()) = request
            .body(())
            .map_err(|error| self.unexpected(error))?
            .into_parts();
        let harmless = parts.method != Method::POST;
        let rebuild = || {
            let body = match &bytes {
                Some(bytes) => Full::new(bytes.clone())
                    .map_err(|never| match never {})
                    .boxed_unsync(),
                None => Empty::new().map_err(|never| match never {}).boxed_unsync(),
            };
            Request::from_parts(parts.clone(), body)
        };
        let reused = self.pool.take_idle();
        let may_retry = reused.is_some();
        match self.exchange(reused, rebuild()).await {
            // The server closed an idle connection. Asking again on a new one is safe when it
            // cannot have seen the request, or when doing it twice is doing it once.
            Err(Unanswered { unsent, source })
                if may_retry
                    && (unsent.is_some() || (harmless && source.is_incomplete_message())) =>
            {
                match self.exchange(None, rebuild()).await {
                    Ok(answer) => answer,
                    Err(lost) => Err(self.unanswered(lost)),
                }
            }
            Err(lost) => Err(self.unanswered(lost)),
            Ok(answer) => answer,
        }
    }

    /// Sends what cannot be built again: on a new connection when the first had been closed
    /// before a byte of it was taken.
    async fn send_once(&self, request: Request<Body>) -> Result<Answer, ClientError> {
        match self.exchange(self.pool.take_idle(), request).await {
            Ok(answer) => answer,
            Err(Unanswered {
                unsent: Some(request),
                ..
            }) => match self.exchange(None, request).await {
                Ok(answer) => answer,
                Err(lost) => Err(self.unanswered(lost)),
            },
            Err(lost) => Err(self.unanswered(lost)),
        }
    }

    fn unanswered(&self, lost: Unanswered) -> ClientError {
        let source = lost.source;
        if source.is_user() {
            let cause = std::error::Error::source(&source).map(ToString::to_string);
            return ClientError::Input(io::Error::other(cause.unwrap_or_default()));
        }
        ClientError::Transport {
            server: self.pool.base().to_owned(),
            source,
        }
    }

    /// One request on one connection, a new one when none is given.
    async fn exchange(
        &self,
        connection: Option<Connection>,
        request: Request<Body>,
    ) -> Result<Result<Answer, ClientError>, Unanswered> {
        let mut connection = match connection {
            Some(connection) => connection,
            None => match self.pool.connect().await {
                Ok(connection) => connection,
                Err(error) => return Ok(Err(error)),
            },
        };
        if let Err(source) = connection.ready().await {
            let unsent = Some(request);
            return Err(Unanswered { unsent, source });
        }
        let response = match connection.try_send_request(request).await {
            Ok(response) => response,
            Err(mut failed) => {
                let unsent = failed.take_message();
                let source = failed.into_error();
                return Err(Unanswered { unsent, source });
            }
        };
        let answer = Answer {
            response,
            pool: Arc::clone(&self.pool),
            connection,
        };
        Ok(self.checked(answer).await)
    }

    /// The answer, or the error that it is.
    async fn checked(&self, answer: Answer) -> Result<Answer, ClientError> {
        let status = answer.response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        let body = answer.bytes().await?;
        let error = serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            ApiError::new(ErrorCode::InternalError, format!("status {status}: {text}"))
        });
        Err(ClientError::Api {
            status: status.as_u16(),
            error,
        })
    }

    /// Sends and reads a JSON answer.
    pub(crate) async fn fetch<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
    ) -> Result<T, ClientError> {
        let body = self.send(method, path, &[], payload).await?.bytes().await?;
        serde_json::from_slice(&body).map_err(|error| self.unexpected(error))
    }

    /// Sends, and drops the body of a success.
    pub(crate) async fn submit(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
    ) -> Result<(), ClientError> {
        self.send(method, path, &[], payload)
            .await?
            .bytes()
            .await
            .map(drop)
    }

    pub(crate) fn unexpected(&self, reason: impl std::fmt::Display) -> ClientError {
        ClientError::Answer {
            server: self.pool.base().to_owned(),
            reason: reason.to_string(),
        }
    }
}

impl Answer {
    /// The whole body; the connection goes back to the pool.
    pub(crate) async fn bytes(self) -> Result<Bytes, ClientError> {
        let server = self.pool.base().to_owned();
        let body = http_body_util::Limited::new(self.response.into_body(), MAX_ANSWER);
        let bytes = body
            .collect()
            .await
            .map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(source) => ClientError::Transport {
                    server: server.clone(),
                    source: *source,
                },
                Err(other) => ClientError::Answer {
                    server: server.clone(),
                    reason: other.to_string(),
                },
            })?
            .to_bytes();
        self.pool.give_back(self.connection);
        Ok(bytes)
    }
}

/// A path with a query: every field of `query` that is not none is a parameter, a list is one
/// parameter for each item, and a map is the parameters `field.KEY`.
pub(crate) fn with_query(path: &str, query: &impl Serialize) -> String {
    let query = serde_json::to_value(query).expect("our own types are always JSON");
    let mut parts = Vec::new();
    for (name, value) in query.as_object().into_iter().flatten() {
        match value {
            Value::Array(items) => parts.extend(items.iter().filter_map(|item| part(name, item))),
            Value::Object(entries) => parts.extend(
                entries
                    .iter()
                    .filter_map(|(key, value)| part(&format!("{name}.{key}"), value)),
            ),
            value => parts.extend(part(name, value)),
        }
    }
    if parts.is_empty() {
        return path.to_owned();
    }
    format!("{path}?{}", parts.join("&"))
}

fn part(name: &str, value: &Value) -> Option<String> {
    let value = match value {
        Value::Null => return None,
        Value::String(text) => quoted(text),
        other => other.to_string(),
    };
    Some(format!("{}={value}", quoted(name)))
}

/// `text` as one value of a query, by the rules of RFC 3986, section 2.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
    }
    quoted
}

/// A body that is sent as its chunks come.
pub(crate) fn streamed<S>(chunks: S) -> Body
where
    S: futures_core::Stream<Item = Result<Bytes, io::Error>> + Send + 'static,
{
    use futures_util::StreamExt;
    let frames = chunks.map(|chunk| chunk.map(hyper::body::Frame::data));
    http_body_util::StreamBody::new(frames).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use stacyvm_types::{ListFilesQuery, ListSandboxesQuery, SandboxState, SaveImagesQuery};

    use super::with_query;

    #[test]
    fn queries_carry_any_text() {
        let query = ListFilesQuery {
            path: Some("/a b+c&d=é".to_owned()),
            depth: None,
        };
        assert_eq!(with_query("/x", &query), "/x?path=/a%20b%2Bc%26d%3D%C3%A9");
        assert_eq!(with_query("/x", &ListFilesQuery::default()), "/x");
    }

    #[test]
    fn lists_are_repeated_and_maps_are_written_with_a_dot() {
        let query = SaveImagesQuery {
            name: vec!["a".to_owned(), "b".to_owned()],
            provider: None,
        };
        assert_eq!(with_query("/x", &query), "/x?name=a&name=b");
        let query = ListSandboxesQuery {
            state: Some(SandboxState::Running),
            owner: None,
            metadata: BTreeMap::from([("a=b".to_owned(), "1".to_owned())]),
        };
        assert_eq!(
            with_query("/x", &query),
            "/x?metadata.a%3Db=1&state=running"
        );
    }
}
