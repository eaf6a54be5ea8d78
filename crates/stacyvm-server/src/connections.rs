//! Places for connections: of everybody together, of each address, of the API and of previews.
//!
//! What a connection is for shows only in its first request, so it comes in on a place of the
//! listener and takes a seat of its kind then. Kinds have seats of their own: however many
//! visitors the previews have, they leave those of the API free. A connection that serves both
//! holds a seat of each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::limiter::Peer;

/// How often an operator is told that connections were refused.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// How many connections there may be, and how long one may take to say what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Those that use the API.
    pub api: usize,
    /// Those that visit previews.
    pub previews: usize,
    /// Those that have not asked for anything yet.
    pub arriving: usize,
    /// Those of one address, trusted proxies excepted; 0 means no limit.
    pub per_address: usize,
    /// How long a request's head may take in all, and so how long a connection may idle.
    pub head_timeout: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            api: 8000,
            previews: 4000,
            arriving: 2000,
            per_address: 4096,
            head_timeout: Duration::from_secs(75),
        }
    }
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Api,
    Preview,
}

/// The seats of both kinds, and how many connections each address has.
#[derive(Debug)]
pub(crate) struct Seats {
    api: Arc<Semaphore>,
    previews: Arc<Semaphore>,
    addresses: Arc<Addresses>,
}

#[derive(Debug)]
struct Addresses {
    /// 0 means no limit.
    limit: usize,
    /// The number of open connections of each peer that has any.
    open: Mutex<HashMap<Peer, usize>>,
    warned: Mutex<Option<Instant>>,
}

/// A place among the connections of one address.
#[derive(Debug)]
pub(crate) struct AddressPlace(Option<(Arc<Addresses>, Peer)>);

impl Seats {
    pub(crate) fn new(settings: &ConnectionSettings) -> Self {
        Self {
            api: Arc::new(Semaphore::new(settings.api)),
            previews: Arc::new(Semaphore::new(settings.previews)),
            addresses: Arc::new(Addresses {
                limit: settings.per_address,
                open: Mutex::default(),
                warned: Mutex::default(),
            }),
        }
    }

    /// A place for a connection from `address`; none when it has its share.
    pub(crate) fn place(&self, address: IpAddr) -> Option<AddressPlace> {
        let addresses = &self.addresses;
        if addresses.limit == 0 {
            return Some(AddressPlace::unlimited());
        }
        let peer = Peer::new(address);
        let mut open = addresses.open.lock();
        let count = open.entry(peer).or_default();
        if *count >= addresses.limit {
            drop(open);
            addresses.warn(address);
            return None;
        }
        *count += 1;
        drop(open);
        Some(AddressPlace(Some((Arc::clone(addresses), peer))))
    }
}

impl Addresses {
    fn warn(&self, address: IpAddr) {
        let mut warned = self.warned.lock();
        if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
            *warned = Some(Instant::now());
            tracing::warn!(
                %address,
                limit = self.limit,
                "too many connections from one address are refused: name it in \
                 server.trusted_proxies if it is your proxy, or raise limits.connections_per_address"
            );
        }
    }
}

impl AddressPlace {
    /// A place that is not counted.
    pub(crate) fn unlimited() -> Self {
        Self(None)
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let Some((addresses, peer)) = self.0.take() else {
            return;
        };
        let mut open = addresses.open.lock();
        if let Some(count) = open.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&peer);
            }
        }
    }
}

/// What a connection holds for as long as it lives, also after it was upgraded: its places, and the
/// right to be waited for at a shutdown.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    _arrival: OwnedSemaphorePermit,
    _address: AddressPlace,
    _token: TaskTrackerToken,
    api: OnceLock<OwnedSemaphorePermit>,
    preview: OnceLock<OwnedSemaphorePermit>,
}

impl ConnectionPermit {
    /// A place of the listener and one of the address, with a token of the server's tasks.
    pub(crate) fn new(
        arrival: OwnedSemaphorePermit,
        address: AddressPlace,
        token: TaskTrackerToken,
    ) -> Self {
        Self {
            _arrival: arrival,
            _address: address,
            _token: token,
            api: OnceLock::new(),
            preview: OnceLock::new(),
        }
    }

    /// Takes a seat for this use, unless the connection has one; false when there is none.
    pub(crate) fn sit(&self, what_for: Use, seats: &Seats) -> bool {
        let (held, free) = match what_for {
            Use::Api => (&self.api, &seats.api),
            Use::Preview => (&self.preview, &seats.previews),
        };
        if held.get().is_some() {
            return true;
        }
        match Arc::clone(free).try_acquire_owned() {
            // Another request of the same connection may have been faster; then this one goes back.
            Ok(seat) => {
                let _ = held.set(seat);
                true
            }
            Err(_) => held.get().is_some(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio_util::task::TaskTracker;

    fn seats(api: usize, previews: usize, per_address: usize) -> Seats {
        Seats::new(&ConnectionSettings {
            api,
            previews,
            per_address,
            ..ConnectionSettings::default()
        })
    }

    fn permit() -> ConnectionPermit {
        let arrival = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let token = TaskTracker::new().token();
        ConnectionPermit::new(arrival, AddressPlace::unlimited(), token)
    }

    #[test]
    fn each_use_has_its_own_seats_and_a_connection_needs_one_of_each_once() {
        let seats = seats(1, 2, 0);
        let (one, other, third) = (permit(), permit(), permit());
        for _ in 0..3 {
            assert!(one.sit(Use::Preview, &seats) && other.sit(Use::Preview, &seats));
        }
        assert!(!third.sit(Use::Preview, &seats));
        assert!(third.sit(Use::Api, &seats) && third.sit(Use::Api, &seats));
        assert!(!one.sit(Use::Api, &seats));
        drop(other);
        assert!(third.sit(Use::Preview, &seats));
        drop(third);
        assert!(one.sit(Use::Api, &seats));
    }

    #[test]
    fn an_address_has_its_share_and_gets_it_back() {
        let seats = seats(1, 1, 2);
        let place = |text: &str| seats.place(text.parse().unwrap());
        let one = place("2001:db8::1").unwrap();
        let other = place("2001:db8::2").unwrap();
        assert!(place("2001:db8::3").is_none());
        assert!(place("192.0.2.1").is_some());
        drop(one);
        let again = place("2001:db8::3").unwrap();
        assert!(place("2001:db8::3").is_none());
        drop((other, again));
        assert!(seats.addresses.open.lock().is_empty());
    }
}
