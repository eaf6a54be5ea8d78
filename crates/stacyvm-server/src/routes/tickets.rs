//! Tickets for browsers.

use std::time::Instant;

use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use stacyvm_types::Timestamp;

use super::json;
use crate::body::OptionalJson;
use crate::error::Reply;
use crate::front::Shared;
use crate::owner::Asker;
use crate::tickets::Grant;

#[derive(Default, Deserialize)]
pub(super) struct Wanted {
    /// Below which path it shall be good.
    #[serde(default)]
    path: Option<String>,
}

#[derive(Serialize)]
struct Issued {
    ticket: String,
    expires_at: Timestamp,
}

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
