//! The server's events, as a stream that can be resumed where it broke.

use std::time::Duration;

use futures_util::StreamExt;
use http::{HeaderName, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use stacyvm_types::EventsQuery;
use tokio::time::timeout;

use crate::lines::Lines;
use crate::request::{Payload, with_query};
use crate::{Client, ClientError};

/// A server that sends nothing for this long, not even a heartbeat, is taken for gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// One event. Types and fields that this version does not know are kept as they came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerEvent {
    /// `evt-N`.
    pub id: String,
    /// What happened; `events.lost` when events are missing in front of the next one.
    #[serde(rename = "type")]
    pub kind: String,
    /// The sandbox that it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// When it happened, RFC 3339.
    pub timestamp: String,
    /// Details; their names depend on the type.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The events as they come. The stream ends when the server stops.
#[derive(Debug)]
pub struct EventStream {
    lines: Lines,
    data: Vec<u8>,
}

impl Client {
    /// Follows the events that match `query`.
    ///
    /// # Errors
    /// What the server or the connection reports.
    pub async fn events(&self, query: &EventsQuery) -> Result<EventStream, ClientError> {
        // The place in the stream travels as browsers send it.
        let rest = EventsQuery {
            last_event_id: None,
            ..query.clone()
        };
        let path = with_query("/api/v1/events", &rest);
        let name = HeaderName::from_static("last-event-id");
        let after = query.last_event_id.as_deref().map(|after| (name, after));
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
            // The server sends a heartbeat every 15 seconds.
            let Ok(next) = timeout(IDLE_TIMEOUT, self.lines.next()).await else {
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
