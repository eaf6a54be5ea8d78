//! Authentication of requests: by the key, by a ticket, or none because no key is set. Also counts
//! requests against their rates.

use std::time::Instant;

use axum::extract::Request;
use http::HeaderValue;
use stacyvm_types::{ErrorCode, OwnerId};

use crate::api_key;
use crate::cors::{self, Origin};
use crate::error::Failure;
use crate::limiter::{Peer, Principal};
use crate::owner::USER_ID;
use crate::state::ServerState;
use crate::tickets;

/// Authenticates a request, and attaches the principal whose rates it counts against.
pub(crate) fn authenticate(
    state: &ServerState,
    request: &mut Request,
    origin: &Origin,
) -> Result<(), Failure> {
    let peer = request.extensions().get::<Peer>().copied();
    let peer = peer.unwrap_or_else(Peer::unknown);
    let who = match &state.key {
        Some(_) => Principal::Key,
        None => Principal::Peer(peer),
    };
    let by_ticket = redeem_ticket(state, request)?;
    match &state.key {
        Some(key) if !by_ticket && api_key::guards(request.uri().path()) => {
            if let Err(failure) = api_key::check(request.headers(), key) {
                // What brings no key is no guess.
                if api_key::is_sent(request.headers()) {
                    state.limiter.wrong_key(peer)?;
                }
                return Err(failure);
            }
        }
        None if !by_ticket => cors::check_change(request, origin)?,
        _ => {}
    }
    if is_counted(request.uri().path()) {
        state.limiter.request(who, owner(request).as_ref())?;
    }
    request.extensions_mut().insert(who);
    Ok(())
}

/// Redeems the ticket of a request that has one and no key, and makes the ticket's owner the
/// owner of the request. False when there is no ticket to redeem.
fn redeem_ticket(state: &ServerState, request: &mut Request) -> Result<bool, Failure> {
    let uri = request.uri();
    if api_key::is_sent(request.headers()) || !tickets::is_for(request.method(), uri) {
        return Ok(false);
    }
    let Some((ticket, bare)) = tickets::split(uri) else {
        return Ok(false);
    };
    // 256 bits cannot be guessed, so wrong tickets are not counted: a web page could send many.
    let granted = state.tickets.redeem(&ticket, uri.path(), Instant::now());
    let Some(grant) = granted else {
        return Err(Failure::new(
            ErrorCode::Unauthorized,
            "the ticket is used, too old, for another path, or none of ours: get a new one \
                 with POST /api/v1/tickets",
        ));
    };
    *request.uri_mut() = bare;
    request.headers_mut().remove(USER_ID);
    if let Some(owner) = grant.owner {
        let owner =
            HeaderValue::from_bytes(owner.as_str().as_bytes()).map_err(Failure::internal)?;
        request.headers_mut().insert(USER_ID, owner);
    }
    Ok(true)
}

/// Whether a request counts against a rate. Probes of load balancers never do.
fn is_counted(path: &str) -> bool {
    let exempt = matches!(
        path.strip_suffix('/').unwrap_or(path),
        "/api/v1/live" | "/api/v1/ready" | "/api/v1/health"
    );
    path.starts_with("/api/") && !exempt
}

/// The owner that a request names, if it is a valid one; an invalid one is refused by the handler.
fn owner(request: &Request) -> Option<OwnerId> {
    let value = request.headers().get(USER_ID)?;
    std::str::from_utf8(value.as_bytes()).ok()?.parse().ok()
}
