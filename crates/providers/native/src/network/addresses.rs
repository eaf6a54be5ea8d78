//! The addresses of sandboxes: a range of IPv4, a range of IPv6, and the numbers that are taken.
//!
//! Every sandbox has a number, and both its addresses follow from it. A number that is freed is
//! used again only after all others, because servers outside may still answer to the sandbox that
//! had it before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};
use stacyvm_types::Cidr;

/// How many bits a range may share: numbers must fit into an interface's name, and an address
/// must rest for a while.
pub(crate) const PREFIXES: std::ops::RangeInclusive<u8> = 16..=24;

/// The first number: 0 is the network's, 1 the gateway's.
const FIRST: u32 = 2;

/// The range of IPv4 addresses of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    first: u32,
    bits: u8,
}

impl Subnet {
    /// None when the range is not one of IPv4 or too large or small.
    pub(crate) fn new(range: Cidr) -> Option<Self> {
        match range.first() {
            IpAddr::V4(first) if PREFIXES.contains(&range.bits()) => Some(Self {
                first: first.to_bits(),
                bits: range.bits(),
            }),
            _ => None,
        }
    }

    /// Ranges to choose from, each instance in an order of its own. They lie where neither
    /// container engines, Kubernetes, clouds nor home routers put theirs by default; which of them
    /// is free is found out by looking.
    pub(crate) fn candidates(instance: &str) -> impl Iterator<Item = Self> {
        const SECOND: u32 = 192;
        const COUNT: u32 = 32;
        let offset = u32::from(digest("subnet", instance)[0]);
        (0..COUNT).map(move |step| Self {
            first: (10 << 24) | ((SECOND + (offset + step) % COUNT) << 16),
            bits: 16,
        })
    }

    /// The host's address in it.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        (self.first + 1).into()
    }

    /// The address of this number.
    pub(crate) fn address(self, number: u32) -> Ipv4Addr {
        (self.first + number).into()
    }

    /// Numbers that sandboxes can have; the last address of the range is for broadcasts.
    fn numbers(self) -> std::ops::Range<u32> {
        FIRST..(1 << (32 - u32::from(self.bits))) - 1
    }

    /// Six digits that no range beside this one has.
    pub(crate) fn tag(self) -> String {
        format!("{:06x}", self.number())
    }

    /// A number below 2²⁴ that no range beside this one has.
    pub(crate) fn number(self) -> u32 {
        self.first >> 8
    }

    /// As users write it.
    pub(crate) fn cidr(self) -> Cidr {
        format!("{}/{}", Ipv4Addr::from(self.first), self.bits)
            .parse()
            .expect("the bits after the counted ones are zero")
    }
}

/// A range of local IPv6 addresses (RFC 4193): its first 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(u64);

impl Prefix {
    /// The range of an instance, always the same and different from those of others.
    pub(crate) fn of(instance: &str) -> Self {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest("prefix", instance)[..8]);
        bytes[0] = 0xfd;
        Self(u64::from_be_bytes(bytes))
    }

    /// The host's address in it.
    pub(crate) fn gateway(self) -> Ipv6Addr {
        self.address(1)
    }

    /// The address of this number.
    pub(crate) fn address(self, number: u32) -> Ipv6Addr {
        ((u128::from(self.0) << 64) | u128::from(number)).into()
    }

    /// As users write it.
    pub(crate) fn cidr(self) -> Cidr {
        format!("{}/64", self.address(0))
            .parse()
            .expect("the bits after the counted ones are zero")
    }
}

fn digest(what: &str, instance: &str) -> [u8; 32] {
    Sha256::digest(format!("stacyvm {what} {instance}")).into()
}

/// The numbers of sandboxes that are taken.
#[derive(Debug)]
pub(crate) struct Numbers {
    taken: Vec<bool>,
    /// Where to look first: after the last one given out.
    next: usize,
}

impl Numbers {
    /// All free; `seed` chooses the first to be given out, because it is not known which were in
    /// use a moment ago.
    pub(crate) fn new(subnet: Subnet, seed: u32) -> Self {
        let range = subnet.numbers();
        let mut taken = vec![true; range.end as usize];
        taken[range.start as usize..].fill(false);
        let next = seed as usize % taken.len();
        Self { taken, next }
    }

    /// Takes a free number; none when all are taken.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let count = self.taken.len();
        let number = (0..count)
            .map(|step| (self.next + step) % count)
            .find(|&number| !self.taken[number])?;
        self.taken[number] = true;
        self.next = number + 1;
        u32::try_from(number).ok()
    }

    /// Marks a number as taken, as a record says.
    pub(crate) fn mark(&mut self, number: u32) {
        if let Some(taken) = self.taken.get_mut(number as usize) {
            *taken = true;
        }
    }

    /// Whether a number is taken.
    pub(crate) fn is_taken(&self, number: u32) -> bool {
        self.taken.get(number as usize).copied().unwrap_or(false)
    }

    /// Frees a number.
    pub(crate) fn free(&mut self, number: u32) {
        if number >= FIRST
            && let Some(taken) = self.taken.get_mut(number as usize)
        {
            *taken = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        Subnet::new(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_number_is_given_to_one_alone() {
        let small = subnet("10.1.2.0/24");
        let mut numbers = Numbers::new(small, 200);
        numbers.mark(9);
        let mut seen = HashSet::new();
        while let Some(number) = numbers.take() {
            assert!(seen.insert(number), "{number} was given out twice");
        }
        assert_eq!(
            seen.len(),
            252,
            "all but the network, the gateway, 9 and the last"
        );
        assert!(!seen.contains(&0) && !seen.contains(&1) && !seen.contains(&9));
        assert!(!seen.contains(&255));
    }

    #[test]
    fn a_freed_number_is_the_last_to_come_back() {
        let mut numbers = Numbers::new(subnet("10.1.2.0/24"), 2);
        assert_eq!(numbers.take(), Some(2));
        numbers.free(2);
        let others: Vec<_> = (0..252).map_while(|_| numbers.take()).collect();
        assert!(!others.contains(&2));
        assert_eq!(numbers.take(), Some(2));
        for reserved in [0, 1] {
            numbers.free(reserved);
        }
        assert_eq!(numbers.take(), None);
    }

    #[test]
    fn addresses_follow_from_numbers() {
        let range = subnet("10.213.0.0/16");
        assert_eq!(range.gateway().to_string(), "10.213.0.1");
        assert_eq!(range.address(0x0102).to_string(), "10.213.1.2");
        assert_eq!(range.tag(), "0ad500");
        assert_eq!(range.cidr().to_string(), "10.213.0.0/16");
        for wrong in ["10.0.0.0/8", "10.0.0.0/25", "fd00::/64"] {
            assert!(Subnet::new(wrong.parse().unwrap()).is_none(), "{wrong}");
        }
        let prefix = Prefix::of("one");
        assert_eq!(prefix, Prefix::of("one"));
        assert_ne!(prefix, Prefix::of("other"));
        let ours: Cidr = "fd00::/8".parse().unwrap();
        assert!(ours.contains(prefix.gateway().into()));
        assert!(prefix.cidr().contains(prefix.address(0xffff).into()));
    }

    #[test]
    fn candidates_are_many_and_apart() {
        let all: HashSet<_> = Subnet::candidates("one").map(Subnet::tag).collect();
        assert_eq!(all.len(), 32);
    }
}
