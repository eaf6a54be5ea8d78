//! Tickets: what a browser sends instead of the key where it cannot set headers, that is when it
//! opens a WebSocket or an event stream.
//!
//! A ticket is good for one request, for a short time, for the owner who asked for it and, if
//! they said so, below one path. Only its digest is kept, in memory: a restart ends them all. Those
//! that are neither used nor expired are bounded for each key, so that one client's tickets
//! leave room for others'.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, Uri};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use stacyvm_types::OwnerId;

use crate::error::Failure;
use crate::limiter::Principal;

/// Tickets that may be out at once.
const MAX_TICKETS: usize = 10_000;
/// Those of one key, or of one address while no key is set.
const MAX_HELD_TICKETS: usize = 1000;
/// The path of every route that a ticket may be for begins with this.
const BASE: &str = "/api/v1/";
/// The longest path a ticket is bound to.
const MAX_PATH: usize = 1024;
/// The query parameter.
const PARAMETER: &str = "ticket=";

type Hash = [u8; 32];

/// The tickets that can still be redeemed.
#[derive(Debug)]
pub(crate) struct Tickets {
    life: Duration,
    max: usize,
    max_held: usize,
    table: Mutex<TicketTable>,
}

/// Every ticket that is neither used nor expired.
#[derive(Debug, Default)]
struct TicketTable {
    valid: HashMap<Hash, IssuedTicket>,
    /// The same by the time until which they are good.
    ends: BTreeSet<(Instant, Hash)>,
    /// The number of valid tickets of each principal that has any.
    held: HashMap<Principal, usize>,
}

#[derive(Debug)]
struct IssuedTicket {
    grant: Grant,
    holder: Principal,
    until: Instant,
}

/// The requests that a ticket authorises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The owner who asked for it.
    pub(crate) owner: Option<OwnerId>,
    /// The path below which it is good; none means wherever tickets are.
    pub(crate) path: Option<String>,
}

impl Grant {
    /// For this owner, below this path.
    pub(crate) fn new(owner: Option<OwnerId>, path: Option<String>) -> Result<Self, Failure> {
        let path = path
            .map(|path| path.trim_end_matches('/').to_owned())
            .filter(|path| !path.is_empty());
        if let Some(path) = &path
            && (!path.starts_with(BASE) || path.len() > MAX_PATH)
        {
            return Err(Failure::bad_request(format!(
                "a ticket's path begins with {BASE} and has at most {MAX_PATH} bytes"
            )));
        }
        Ok(Self { owner, path })
    }

    fn covers(&self, path: &str) -> bool {
        self.path.as_deref().is_none_or(|own| {
            let below = path.strip_prefix(own);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

impl Tickets {
    pub(crate) fn new(life: Duration) -> Self {
        Self {
            life,
            max: MAX_TICKETS,
            max_held: MAX_HELD_TICKETS,
            table: Mutex::default(),
        }
    }

    /// How long a ticket is good.
    pub(crate) fn life(&self) -> Duration {
        self.life
    }

    /// A new ticket of `holder`.
    pub(crate) fn issue(
        &self,
        holder: Principal,
        grant: Grant,
        now: Instant,
    ) -> Result<String, Failure> {
        let mut table = self.table.lock();
        table.sweep(now);
        let held = table.held.get(&holder).copied().unwrap_or_default();
        let refused = if held >= self.max_held {
            Some("too many tickets of this key are out: use them, or ask for one when it is needed")
        } else if table.valid.len() >= self.max {
            Some("too many tickets are out")
        } else {
            None
        };
        if let Some(message) = refused {
            let oldest = table.ends.first().map(|(until, _)| *until);
            let wait = oldest.map_or(self.life, |until| until.saturating_duration_since(now));
            return Err(Failure::limited(message, wait));
        }
        let ticket = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let issued = IssuedTicket {
            grant,
            holder,
            until: now + self.life,
        };
        table.insert(hash(&ticket), issued);
        Ok(ticket)
    }

    /// Takes a ticket for a request of this path; none when it is not good for it.
    pub(crate) fn redeem(&self, ticket: &str, path: &str, now: Instant) -> Option<Grant> {
        let hash = hash(ticket);
        let mut table = self.table.lock();
        table.sweep(now);
        if !table.valid.get(&hash)?.grant.covers(path) {
            return None;
        }
        table.remove(&hash)
    }
}

impl TicketTable {
    fn insert(&mut self, hash: Hash, issued: IssuedTicket) {
        self.ends.insert((issued.until, hash));
        *self.held.entry(issued.holder).or_default() += 1;
        self.valid.insert(hash, issued);
    }

    fn remove(&mut self, hash: &Hash) -> Option<Grant> {
        let issued = self.valid.remove(hash)?;
        self.ends.remove(&(issued.until, *hash));
        if let Some(held) = self.held.get_mut(&issued.holder) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&issued.holder);
            }
        }
        Some(issued.grant)
    }

    fn sweep(&mut self, now: Instant) {
        while let Some((until, hash)) = self.ends.first().copied()
            && until <= now
        {
            self.remove(&hash);
        }
    }
}

/// Looked up by digest, so that the time it takes says nothing about the tickets there are.
fn hash(ticket: &str) -> Hash {
    Sha256::digest(ticket.as_bytes()).into()
}

/// Whether a ticket may stand in for the key here: where browsers cannot set headers.
pub(crate) fn is_for(method: &Method, uri: &Uri) -> bool {
    let path = uri.path().strip_prefix(BASE).unwrap_or_default();
    let path = path.strip_suffix('/').unwrap_or(path);
    let parts: Vec<&str> = path.split('/').collect();
    *method == Method::GET
        && match parts[..] {
            ["events"]
            | ["sandboxes", _, "exec", "ws"]
            | ["sandboxes", _, "execs", _, "attach"] => true,
            ["sandboxes", _, "logs"] => pairs(uri).any(|pair| {
                matches!(pair.split_once('='), Some(("follow", value)) if matches!(value, "true" | "1"))
            }),
            _ => false,
        }
}

/// The ticket in a query, and the address without it: no handler sees it.
/// None when there is no ticket, or more than one.
pub(crate) fn split(uri: &Uri) -> Option<(String, Uri)> {
    let mut tickets = pairs(uri).filter_map(|pair| pair.strip_prefix(PARAMETER));
    let (Some(ticket), None) = (tickets.next(), tickets.next()) else {
        return None;
    };
    let rest: Vec<&str> = pairs(uri)
        .filter(|pair| !pair.starts_with(PARAMETER))
        .collect();
    let bare = match rest.as_slice() {
        [] => uri.path().to_owned(),
        rest => format!("{}?{}", uri.path(), rest.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(bare.parse().ok()?);
    Some((ticket.to_owned(), Uri::from_parts(parts).ok()?))
}

fn pairs(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use stacyvm_types::ErrorCode;

    const LIFE: Duration = Duration::from_secs(60);
    const EVENTS: &str = "/api/v1/events";
    const KEY: Principal = Principal::Key;

    fn grant(path: Option<&str>) -> Grant {
        Grant::new(Some("alice".parse().unwrap()), path.map(str::to_owned)).unwrap()
    }

    #[test]
    fn a_ticket_is_good_once_in_time_and_below_its_path() {
        let tickets = Tickets::new(LIFE);
        let now = Instant::now();
        let ticket = tickets.issue(KEY, grant(None), now).unwrap();
        assert_eq!(ticket.len(), 43);
        assert_eq!(tickets.redeem("x", EVENTS, now), None);
        assert_eq!(tickets.redeem(&ticket, EVENTS, now), Some(grant(None)));
        assert_eq!(tickets.redeem(&ticket, EVENTS, now), None);

        let ticket = tickets.issue(KEY, grant(None), now).unwrap();
        let last = now + LIFE - Duration::from_nanos(1);
        assert_eq!(tickets.redeem(&ticket, EVENTS, now + LIFE), None);
        let ticket = tickets.issue(KEY, grant(None), now).unwrap();
        assert!(tickets.redeem(&ticket, EVENTS, last).is_some());

        let bound = grant(Some("/api/v1/sandboxes/sb-1/"));
        let ticket = tickets.issue(KEY, bound.clone(), now).unwrap();
        for elsewhere in [
            EVENTS,
            "/api/v1/sandboxes/sb-2/exec/ws",
            "/api/v1/sandboxes/sb-11/exec/ws",
            "/api/v1/sandboxes/sb-%31/exec/ws",
        ] {
            assert_eq!(tickets.redeem(&ticket, elsewhere, now), None, "{elsewhere}");
        }
        // A try elsewhere does not use it up.
        let path = "/api/v1/sandboxes/sb-1/exec/ws";
        assert_eq!(tickets.redeem(&ticket, path, now), Some(bound));
    }

    #[test]
    fn only_so_many_are_out_and_used_and_old_ones_make_room() {
        let mut tickets = Tickets::new(LIFE);
        tickets.max = 3;
        let now = Instant::now();
        // Used at once they never add up.
        for _ in 0..9 {
            let ticket = tickets.issue(KEY, grant(None), now).unwrap();
            assert!(tickets.redeem(&ticket, EVENTS, now).is_some());
        }
        for _ in 0..3 {
            tickets.issue(KEY, grant(None), now).unwrap();
        }
        let failure = tickets.issue(KEY, grant(None), now).unwrap_err();
        assert_eq!(failure.code(), ErrorCode::ResourceLimit);
        tickets.issue(KEY, grant(None), now + LIFE).unwrap();
        let table = tickets.table.lock();
        assert_eq!((table.valid.len(), table.ends.len()), (1, 1));
        assert_eq!(table.held.get(&KEY), Some(&1));
    }

    #[test]
    fn one_holder_leaves_room_for_the_next() {
        use crate::limiter::Peer;
        let mut tickets = Tickets::new(LIFE);
        tickets.max_held = 2;
        let now = Instant::now();
        let holder = |text: &str| Principal::Peer(Peer::new(text.parse().unwrap()));
        let (greedy, other) = (holder("192.0.2.1"), holder("192.0.2.2"));
        let kept = tickets.issue(greedy, grant(None), now).unwrap();
        tickets.issue(greedy, grant(None), now).unwrap();
        let failure = tickets.issue(greedy, grant(None), now).unwrap_err();
        assert!(failure.message().contains("of this key"), "{failure:?}");
        tickets.issue(other, grant(None), now).unwrap();
        tickets.redeem(&kept, EVENTS, now).unwrap();
        tickets.issue(greedy, grant(None), now).unwrap();
        assert!(tickets.issue(greedy, grant(None), now).is_err());
        // Who has none left is forgotten.
        tickets.table.lock().sweep(now + LIFE);
        let table = tickets.table.lock();
        assert!(table.held.is_empty() && table.ends.is_empty() && table.valid.is_empty());
    }

    #[test]
    fn paths_outside_the_api_are_refused() {
        for path in ["/", "/api/v1x/y", "sandboxes", "/x"] {
            let made = Grant::new(None, Some(path.to_owned()));
            assert_eq!(made.is_err(), path != "/", "{path}");
        }
        assert!(Grant::new(None, Some(format!("{BASE}{}", "x".repeat(1024)))).is_err());
    }

    #[test]
    fn tickets_are_for_streams_alone() {
        let ask = |method: Method, uri: &str| is_for(&method, &uri.parse().unwrap());
        for uri in [
            "/api/v1/events",
            "/api/v1/events/?ticket=x",
            "/api/v1/sandboxes/sb-0/exec/ws",
            "/api/v1/sandboxes/sb-0/execs/3/attach?offset=1",
            "/api/v1/sandboxes/sb-0/logs?lines=1&follow=true",
        ] {
            assert!(ask(Method::GET, uri), "{uri}");
            assert!(!ask(Method::POST, uri), "{uri}");
        }
        for uri in [
            "/",
            "/events",
            "/api/v1/sandboxes",
            "/api/v1/sandboxes/sb-0/exec",
            "/api/v1/sandboxes/sb-0/execs/3",
            "/api/v1/sandboxes/sb-0/logs",
            "/api/v1/sandboxes/sb-0/logs?follow=false",
            "/api/v1/sandboxes/sb-0/x/exec/ws",
            "/api/v1/tickets",
        ] {
            assert!(!ask(Method::GET, uri), "{uri}");
        }
    }

    #[test]
    fn the_ticket_leaves_the_address() {
        let split = |uri: &str| split(&uri.parse().unwrap());
        let (ticket, rest) = split("/api/v1/events?type=a&ticket=abc&sandbox_id=b").unwrap();
        assert_eq!(ticket, "abc");
        assert_eq!(rest, "/api/v1/events?type=a&sandbox_id=b");
        let (_, rest) = split("http://localhost/api/v1/events?ticket=abc").unwrap();
        assert_eq!(rest, "http://localhost/api/v1/events");
        assert!(split("/x?ticket=a&ticket=b").is_none());
        assert!(split("/x?tickets=a").is_none());
    }
}
