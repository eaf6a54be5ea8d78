//! What happens on the server, as a stream that can be taken up again where it broke.

use std::time::Duration;

use futures_util::StreamExt;
use http::{HeaderName, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::lines::Lines;
use crate::request::{Payload, quoted};
use crate::{Client, ClientError};

/// How long a server may say nothing at all.
const SILENCE: Duration = Duration::from_secs(60);

/// What is to be followed.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Only these types: `exec.failed`, or a family like `sandbox.*`. None means all.
    pub types: Vec<String>,
    /// Only what happens to this sandbox.
    pub sandbox: Option<String>,
    /// The id of the last event that was seen; what is kept of those after it comes first.
    /// `evt-0` asks for all that is kept, none for what happens from now on.
    pub after: Option<String>,
}

/// One event. Types and fields that this version does not know are kept as they came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerEvent {
    /// `evt-N`.
    pub id: String,
    /// What happened; `events.lost` when events are missing in front of the next one.
    #[serde(rename = "type")]
    pub kind: String,
    /// To which sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// When, RFC 3339.
    pub timestamp: String,
    /// What else is to be said.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
    /// What a later version says.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The events as they come. Its end means that the server stops.
#[derive(Debug)]
pub struct EventStream {
    lines: Lines,
    data: Vec<u8>,
}

impl Client {
    /// Follows what happens.
    ///
    /// # Errors
    /// Whatever the server or the connection says.
    pub async fn events(&self, query: &EventQuery) -> Result<EventStream, ClientError> {
        let mut parts = Vec::new();
        if !query.types.is_empty() {
            parts.push(format!("type={}", quoted(&query.types.join(","))));
        }
        if let Some(sandbox) = &query.sandbox {
            parts.push(format!("sandbox_id={}", quoted(sandbox)));
        }
        let path = format!("/api/v1/events?{}", parts.join("&"));
        let name = HeaderName::from_static("last-event-id");
        let after = query.after.as_deref().map(|after| (name, after));
        let headers: Vec<(HeaderName, &str)> = after.into_iter().collect();
        let answer = self.send(Method::GET, &path, &headers, Payload::None);
        Ok(EventStream {
            lines: Lines::new(answer.await?),
            data: Vec::new(),
        })
    }
}

impl EventStream {
    /// The next event; none when the server ended the stream. Safe to drop and call again.
    ///
    /// # Errors
    /// When the connection broke, or what came is no event.
    pub async fn next(&mut self) -> Option<Result<ServerEvent, ClientError>> {
        loop {
            // The server says something every 15 seconds; one that is silent is not there.
            let Ok(next) = timeout(SILENCE, self.lines.next()).await else {
                return Some(Err(self.lines.bad("the server has fallen silent")));
            };
            let line = match next? {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.is_empty() && !self.data.is_empty() {
                let event = serde_json::from_slice(&self.data);
                self.data.clear();
                return Some(event.map_err(|error| self.lines.bad(error)));
            }
            // The id is in the data too; comments and other fields are of no use here.
            if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                let data = data.strip_prefix(b" ").unwrap_or(data);
                self.data.extend_from_slice(data);
            }
        }
    }
}
