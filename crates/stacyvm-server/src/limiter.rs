//! Rates of requests and spawns: of each key (or address, while no key is set) and each owner, and
//! of wrong keys from each address.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use stacyvm_types::OwnerId;

use crate::error::Failure;
use crate::rate::{Rate, TokenBuckets};
use crate::settings::RateSettings;

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer(IpAddr);

impl Peer {
    /// The address, or the network that one customer of a provider has all addresses of.
    pub(crate) fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Self(Ipv6Addr::from_bits(network).into())
            }
            address => Self(address),
        }
    }

    /// The peer of a request that did not arrive over a connection of this server.
    pub(crate) fn unknown() -> Self {
        Self(Ipv6Addr::UNSPECIFIED.into())
    }
}

/// The party whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Principal {
    /// Every client that has the key.
    Key,
    /// While no key is set, every client at one address.
    Peer(Peer),
}

/// All rate limits of the API.
#[derive(Debug)]
pub(crate) struct Limiter {
    requests: TokenBuckets<Principal>,
    owner_requests: TokenBuckets<OwnerId>,
    spawns: TokenBuckets<Principal>,
    owner_spawns: TokenBuckets<OwnerId>,
    failures: TokenBuckets<Peer>,
}

impl Limiter {
    pub(crate) fn new(rates: &RateSettings) -> Self {
        let second = Rate::each_second;
        let minute = Rate::each_minute;
        Self {
            requests: TokenBuckets::new(second(rates.requests_per_second, rates.burst)),
            owner_requests: TokenBuckets::new(second(
                rates.owner_requests_per_second,
                rates.owner_burst,
            )),
            spawns: TokenBuckets::new(minute(rates.spawns_per_minute)),
            owner_spawns: TokenBuckets::new(minute(rates.owner_spawns_per_minute)),
            failures: TokenBuckets::new(minute(rates.auth_failures_per_minute)),
        }
    }

    /// Counts a request.
    pub(crate) fn request(&self, who: Principal, owner: Option<&OwnerId>) -> Result<(), Failure> {
        let now = Instant::now();
        if let Err(wait) = self.requests.take(&who, now) {
            return Err(refusal("too many requests", wait));
        }
        match owner.map(|owner| self.owner_requests.take(owner, now)) {
            Some(Err(wait)) => Err(refusal("too many requests of this owner", wait)),
            _ => Ok(()),
        }
    }

    /// Counts a spawn; the owner is the one that the sandbox will have.
    pub(crate) fn spawn(&self, who: Principal, owner: Option<&OwnerId>) -> Result<(), Failure> {
        let now = Instant::now();
        if let Err(wait) = self.spawns.take(&who, now) {
            return Err(refusal("too many spawns", wait));
        }
        match owner.map(|owner| self.owner_spawns.take(owner, now)) {
            Some(Err(wait)) => Err(refusal("too many spawns of this owner", wait)),
            _ => Ok(()),
        }
    }

    /// Counts a wrong key, and refuses it once its address has sent too many. Only wrong ones ever
    /// come here: others behind the same address may have the right one.
    pub(crate) fn wrong_key(&self, peer: Peer) -> Result<(), Failure> {
        let taken = self.failures.take(&peer, Instant::now());
        taken.map_err(|wait| refusal("too many wrong keys from this address", wait))
    }
}

fn refusal(what: &'static str, wait: Duration) -> Failure {
    let failure = Failure::limited(what, wait);
    tracing::debug!(what, "request refused by its rate");
    failure
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_count_together() {
        let peer = |text: &str| Peer::new(text.parse().unwrap());
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:0:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_ne!(peer("10.0.0.2"), peer("10.0.0.1"));
    }

    #[test]
    fn keys_and_owners_are_counted_apart() {
        let limiter = Limiter::new(&RateSettings {
            requests_per_second: 3,
            owner_requests_per_second: 2,
            spawns_per_minute: 2,
            owner_spawns_per_minute: 1,
            ..RateSettings::default()
        });
        let (alice, bob): (OwnerId, OwnerId) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let other = Principal::Peer(Peer::unknown());
        assert!(limiter.request(Principal::Key, Some(&alice)).is_ok());
        assert!(limiter.request(Principal::Key, Some(&alice)).is_ok());
        let refused = limiter.request(Principal::Key, Some(&alice)).unwrap_err();
        assert!(refused.message().contains("owner"));
        let refused = limiter.request(Principal::Key, Some(&bob)).unwrap_err();
        assert!(!refused.message().contains("owner"));
        assert!(limiter.request(other, Some(&bob)).is_ok());
        assert!(limiter.spawn(Principal::Key, Some(&alice)).is_ok());
        assert!(limiter.spawn(Principal::Key, Some(&alice)).is_err());
        assert!(limiter.spawn(other, None).is_ok());
    }
}
