//! The stream of events.

use axum::extract::State;
use http::{HeaderMap, HeaderName, HeaderValue};
use stacyvm_orchestrator::EventFilter;
use stacyvm_types::{EventId, EventTypes, EventsQuery, ParseEventError, SandboxId};

use crate::error::{Failure, Reply};
use crate::openapi::shapes::EventStream;
use crate::owner::RequestCaller;
use crate::query::Query;
use crate::response::streamed;
use crate::sse;
use crate::state::SharedState;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Tells what happens, as server-sent events.
///
/// Each is an unnamed `data:` block with an `id:` line; comments keep the connection alive. What a
/// reader missed is told as an event of type `events.lost`. Ids grow, also across restarts.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "events",
    operation_id = "follow",
    params(
        EventsQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "The same, as browsers send it."),
    ),
    responses(
        (status = 200, description = "The events, until the client leaves.",
            body = EventStream, content_type = "text/event-stream"),
    ),
)]
pub(super) async fn follow(
    State(state): State<SharedState>,
    RequestCaller(caller): RequestCaller,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> Reply {
    let filter = filter(&query)?;
    let after = last_seen(&headers, &query)?;
    let subscription = state.orchestrator.events(&caller, filter, after)?;
    let body = sse::body(subscription, state.heartbeat, state.cut());
    Ok(streamed(
        HeaderValue::from_static("text/event-stream"),
        body,
    ))
}

/// `type` may be there several times and hold several words each.
fn filter(query: &EventsQuery) -> Result<EventFilter, Failure> {
    let mut filter = EventFilter::default();
    let mut types: Option<EventTypes> = None;
    let words = query.types.iter().flat_map(|value| value.split(','));
    for word in words.map(str::trim).filter(|word| !word.is_empty()) {
        let more: EventTypes = word.parse()?;
        types = Some(types.unwrap_or_default().and(more));
    }
    if let Some(types) = types {
        filter.types = types;
    }
    if let Some(id) = &query.sandbox_id {
        filter.sandbox = Some(id.parse::<SandboxId>()?);
    }
    Ok(filter)
}

/// The header, which a browser sends when it comes back by itself; else the query, which says
/// what it had seen when it came first.
fn last_seen(headers: &HeaderMap, query: &EventsQuery) -> Result<Option<EventId>, Failure> {
    let from_query = query.last_event_id.as_deref();
    let from_header = headers.get(LAST_EVENT_ID).map(HeaderValue::to_str);
    let text = match from_header {
        Some(Ok("")) | None => from_query,
        Some(text) => Some(text.unwrap_or("?")),
    };
    Ok(text.map(str::parse).transpose()?)
}

impl From<ParseEventError> for Failure {
    fn from(error: ParseEventError) -> Self {
        Self::bad_request(error.to_string())
    }
}
