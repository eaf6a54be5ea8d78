//! Tickets for browsers.

use std::time::Instant;

use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use stacyvm_types::Timestamp;
use utoipa::ToSchema;

use super::json;
use crate::body::OptionalJson;
use crate::error::Reply;
use crate::front::Shared;
use crate::openapi::JsonBody;
use crate::owner::Asker;
use crate::tickets::Grant;

/// What a ticket shall be good for.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = TicketRequest)]
pub(super) struct Wanted {
    /// At and below which path; absent means wherever tickets are taken.
    #[serde(default)]
    path: Option<String>,
}

/// A ticket.
#[derive(Serialize, ToSchema)]
#[schema(as = Ticket)]
struct Issued {
    /// For `?ticket=`; good once.
    ticket: String,
    /// Until when.
    expires_at: Timestamp,
}

/// Issues a ticket, for browsers that cannot set headers on a WebSocket or an event stream.
///
/// It is good once, for a short time, for the owner that `X-User-ID` names here, in place of the
/// key: as `?ticket=` on `/events`, `/exec/ws`, `/attach` and followed logs.
#[utoipa::path(
    post, path = "/api/v1/tickets", tag = "auth",
    operation_id = "issue_ticket",
    request_body(content = Option<Wanted>, example = json!({"path": "/api/v1/events"})),
    responses(
        (status = 201, description = "The ticket.", body = Issued),
        JsonBody,
    ),
)]
pub(super) async fn issue(
    State(front): State<Shared>,
    Asker(caller): Asker,
    OptionalJson(Wanted { path }): OptionalJson<Wanted>,
) -> Reply {
    let grant = Grant::new(caller.owner, path)?;
    let issued = Issued {
        ticket: front.tickets.issue(grant, Instant::now())?,
        expires_at: Timestamp::now().saturating_add(front.tickets.life()),
    };
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((headers, json(StatusCode::CREATED, &issued)).into_response())
}
