//! Tickets for browsers.

use std::time::Instant;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderValue, StatusCode, header};
use stacyvm_types::{Ticket, TicketRequest, Timestamp};

use crate::body::OptionalJson;
use crate::error::Reply;
use crate::limiter::Principal;
use crate::openapi::failures::JsonBodyErrors;
use crate::owner::RequestCaller;
use crate::response::json;
use crate::state::SharedState;
use crate::tickets::Grant;

/// Issues a ticket, for browsers that cannot set headers on a WebSocket or an event stream.
///
/// It is good once, for a short time, for the owner that `X-User-ID` names here, in place of the
/// key: as `?ticket=` on `/events`, `/exec/ws`, `/attach` and followed logs.
#[utoipa::path(
    post, path = "/api/v1/tickets", tag = "auth",
    operation_id = "issue_ticket",
    request_body(content = Option<TicketRequest>, example = json!({"path": "/api/v1/events"})),
    responses(
        (status = 201, description = "The ticket.", body = Ticket),
        JsonBodyErrors,
    ),
)]
pub(super) async fn issue(
    State(state): State<SharedState>,
    Extension(who): Extension<Principal>,
    RequestCaller(caller): RequestCaller,
    OptionalJson(TicketRequest { path }): OptionalJson<TicketRequest>,
) -> Reply {
    let grant = Grant::new(caller.owner, path)?;
    let ticket = Ticket {
        ticket: state.tickets.issue(who, grant, Instant::now())?,
        expires_at: Timestamp::now().saturating_add(state.tickets.life()),
    };
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((headers, json(StatusCode::CREATED, &ticket)).into_response())
}
