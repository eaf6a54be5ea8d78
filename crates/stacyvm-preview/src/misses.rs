//! Counts what each client address asked for and did not find, so that nobody finds previews by
//! trying names.
//!
//! An address with too many misses is refused whatever it asks for without a token, so that a hit
//! among its guesses does not show; what it has opened before stays open to it. Memory is bounded: of
//! the addresses only those that were here lately are remembered, in two generations.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;
use stacyvm_types::SandboxId;
use tokio::time::Instant;

/// The number of addresses of one generation.
const GENERATION_SIZE: usize = 10_000;
/// How many sandboxes an address is remembered to have opened.
const MAX_OPENED: usize = 16;

/// The misses of all addresses.
#[derive(Debug)]
pub(crate) struct Misses {
    /// How many each may have in a minute, all at once if need be; 0 means no limit.
    per_minute: u32,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<IpAddr, Peer>,
    old: HashMap<IpAddr, Peer>,
}

#[derive(Debug)]
struct Peer {
    /// How many misses are left.
    left: f64,
    at: Instant,
    opened: VecDeque<SandboxId>,
}

impl Misses {
    pub(crate) fn new(per_minute: u32) -> Self {
        Self {
            per_minute,
            generations: Mutex::new(Generations::default()),
        }
    }

    /// Whether a client may still ask for a sandbox without a token.
    ///
    /// # Errors
    /// How long until it may again.
    pub(crate) fn check(&self, client: IpAddr, sandbox: &SandboxId) -> Result<(), Duration> {
        self.with(client, false, |peer, per_second| {
            if peer.left >= 1.0 || peer.opened.contains(sandbox) {
                return Ok(());
            }
            Err(Duration::from_secs_f64((1.0 - peer.left) / per_second))
        })
        .unwrap_or(Ok(()))
    }

    /// Counts a miss.
    pub(crate) fn count(&self, client: IpAddr) {
        self.with(client, true, |peer, _| {
            peer.left = (peer.left - 1.0).max(0.0)
        });
    }

    /// Remembers that a client has opened a sandbox.
    pub(crate) fn opened(&self, client: IpAddr, sandbox: &SandboxId) {
        self.with(client, true, |peer, _| {
            if peer.opened.contains(sandbox) {
                return;
            }
            peer.opened.truncate(MAX_OPENED - 1);
            peer.opened.push_front(sandbox.clone());
        });
    }

    /// Does something with a client that is remembered, or that is to be.
    fn with<T>(
        &self,
        client: IpAddr,
        remember: bool,
        act: impl FnOnce(&mut Peer, f64) -> T,
    ) -> Option<T> {
        if self.per_minute == 0 {
            return None;
        }
        let client = network(client);
        let (burst, now) = (f64::from(self.per_minute), Instant::now());
        let per_second = burst / 60.0;
        let mut generations = self.generations.lock();
        if !generations.young.contains_key(&client) {
            let found = generations.old.remove(&client);
            if found.is_none() && !remember {
                return None;
            }
            if generations.young.len() >= GENERATION_SIZE {
                generations.old = mem::take(&mut generations.young);
            }
            let peer = found.unwrap_or(Peer {
                left: burst,
                at: now,
                opened: VecDeque::new(),
            });
            generations.young.insert(client, peer);
        }
        let peer = generations.young.get_mut(&client)?;
        let rested = now.saturating_duration_since(peer.at).as_secs_f64();
        peer.left = (peer.left + rested * per_second).min(burst);
        peer.at = now;
        Some(act(peer, per_second))
    }
}

/// The address, or the network that one customer of a provider has all addresses of.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_misses_close_what_was_not_open_before() {
        let misses = Misses::new(3);
        let (guesser, other) = (address("2001:db8::1"), address("10.0.0.1"));
        let [open, new] = [1, 2].map(SandboxId::from_u32);
        misses.opened(guesser, &open);
        for _ in 0..3 {
            misses.check(guesser, &new).unwrap();
            misses.count(guesser);
        }
        let wait = misses.check(address("2001:db8::2"), &new).unwrap_err();
        assert!(wait <= Duration::from_secs(20), "{wait:?}");
        misses.check(guesser, &open).unwrap();
        misses.check(other, &new).unwrap();
        tokio::time::advance(wait + Duration::from_millis(1)).await;
        misses.check(guesser, &new).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_much_is_remembered() {
        let misses = Misses::new(1);
        for number in 0..3 * u32::try_from(GENERATION_SIZE).unwrap() {
            misses.count(IpAddr::V4(number.into()));
        }
        let generations = misses.generations.lock();
        assert!(generations.young.len() <= GENERATION_SIZE);
        assert!(generations.old.len() <= GENERATION_SIZE);
        drop(generations);
        let client = address("10.0.0.1");
        for number in 0..100 {
            misses.opened(client, &SandboxId::from_u32(number));
        }
        misses.count(client);
        misses.check(client, &SandboxId::from_u32(99)).unwrap();
        assert!(misses.check(client, &SandboxId::from_u32(1)).is_err());
        let without = Misses::new(0);
        (0..1000).for_each(|_| without.count(client));
        without.check(client, &SandboxId::from_u32(1)).unwrap();
        assert!(without.generations.lock().young.is_empty());
    }
}
