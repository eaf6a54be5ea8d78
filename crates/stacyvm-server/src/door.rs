//! Who is let in: by the key, by a ticket, or because no key is set; and how often.

use std::time::Instant;

use axum::extract::Request;
use http::HeaderValue;
use stacyvm_types::{ErrorCode, OwnerId};

use crate::auth;
use crate::cors::{self, Origin};
use crate::error::Failure;
use crate::front::Front;
use crate::limiter::{Peer, Principal};
use crate::owner::USER_ID;
use crate::tickets;

impl Front {
    /// Lets a request in, and notes on it whose it is.
    pub(crate) fn let_in(&self, request: &mut Request, origin: &Origin) -> Result<(), Failure> {
        let peer = request.extensions().get::<Peer>().copied();
        let peer = peer.unwrap_or_else(Peer::unknown);
        let who = match &self.key {
            Some(_) => Principal::Key,
            None => Principal::Peer(peer),
        };
        let by_ticket = self.use_ticket(request)?;
        match &self.key {
            Some(key) if !by_ticket && auth::guards(request.uri().path()) => {
                if auth::is_sent(request.headers()) {
                    self.limiter.may_guess(peer)?;
                    let checked = auth::check(request.headers(), key);
                    checked.inspect_err(|_| self.limiter.failed(peer))?;
                } else {
                    auth::check(request.headers(), key)?;
                }
            }
            None if !by_ticket => cors::check_change(request, origin)?,
            _ => {}
        }
        if is_counted(request.uri().path()) {
            self.limiter.request(who, owner(request).as_ref())?;
        }
        request.extensions_mut().insert(who);
        Ok(())
    }

    /// Takes the ticket of a request that has one and no key, and makes it the request of the
    /// ticket's owner. False when there is none to take.
    fn use_ticket(&self, request: &mut Request) -> Result<bool, Failure> {
        let uri = request.uri();
        if auth::is_sent(request.headers()) || !tickets::is_for(request.method(), uri) {
            return Ok(false);
        }
        let Some((ticket, bare)) = tickets::split(uri) else {
            return Ok(false);
        };
        // Nobody guesses 256 bits, so a wrong one counts against nobody: a web page could send many.
        let granted = self.tickets.redeem(&ticket, uri.path(), Instant::now());
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
}

/// Whether a request counts against a rate. What a load balancer asks never does.
fn is_counted(path: &str) -> bool {
    let exempt = matches!(
        path.strip_suffix('/').unwrap_or(path),
        "/api/v1/live" | "/api/v1/ready" | "/api/v1/health"
    );
    path.starts_with("/api/") && !exempt
}

/// The owner that a request names, if the name is one; what is wrong with it is said later.
fn owner(request: &Request) -> Option<OwnerId> {
    let value = request.headers().get(USER_ID)?;
    std::str::from_utf8(value.as_bytes()).ok()?.parse().ok()
}
