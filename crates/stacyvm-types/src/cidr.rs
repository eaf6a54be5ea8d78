//! Ranges of network addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid range {text:?}: {reason}")]
pub struct ParseCidrError {
    text: String,
    reason: &'static str,
}

/// Addresses that share their first bits, written `10.0.0.0/8` or `fd00::/8` (RFC 4632, RFC 4291).
/// An address alone is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    first: IpAddr,
    bits: u8,
}

impl Cidr {
    /// The lowest address.
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// How many bits are shared.
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether the range holds a single address.
    pub const fn is_single(&self) -> bool {
        self.bits == whole(self.first)
    }

    /// Whether an address lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        start(address, self.bits) == Some(self.first)
    }

    /// Whether the two ranges have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }
}

/// How many bits an address of this family has.
const fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with all but its first bits cleared; none when it has not that many.
fn start(address: IpAddr, bits: u8) -> Option<IpAddr> {
    let rest = whole(address).checked_sub(bits)?;
    Some(match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(rest.into()).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(rest.into()).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    })
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let refuse = |reason| ParseCidrError {
            text: text.chars().take(80).collect(),
            reason,
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = address
            .parse()
            .map_err(|_| refuse("it must begin with an address, as in 10.0.0.0/8"))?;
        let bits = match bits {
            None => whole(first),
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits
                .parse()
                .map_err(|_| refuse("a number of bits must follow the slash"))?,
            Some(_) => return Err(refuse("a number of bits must follow the slash")),
        };
        match start(first, bits) {
            None => Err(refuse("an address has not that many bits")),
            // Either the address or the number of bits may be the mistake.
            Some(lowest) if lowest != first => Err(refuse("it has bits set after those counted")),
            Some(_) => Ok(Self { first, bits }),
        }
    }
}

impl TryFrom<String> for Cidr {
    type Error = ParseCidrError;

    fn try_from(text: String) -> Result<Self, ParseCidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(range: Cidr) -> Self {
        range.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_end_where_their_bits_say() {
        for (text, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("0.0.0.0/0", "255.1.2.3", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7/32", "192.0.2.6", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fc00::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "10.0.0.1", false),
            ("0.0.0.0/0", "::1", false),
        ] {
            let found = range(text).contains(address.parse().unwrap());
            assert_eq!(found, inside, "{address} in {text}");
        }
        assert!(range("10.0.0.0/8").overlaps(&range("10.3.0.0/16")));
        assert!(range("10.3.0.0/16").overlaps(&range("10.0.0.0/8")));
        assert!(!range("10.3.0.0/16").overlaps(&range("10.4.0.0/16")));
        assert!(!range("0.0.0.0/0").overlaps(&range("::/0")));
        assert!(range("10.0.0.1").is_single() && !range("10.0.0.0/31").is_single());
    }

    #[test]
    fn slips_are_refused_and_a_range_is_written_as_it_is_read() {
        for text in [
            "",
            "/8",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10/8",
            "fd00::/129",
            "example.com/8",
            "10.0.0.0/256",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text:?}");
        }
        for text in ["10.0.0.0/8", "fd00::/8", "1.2.3.4/32"] {
            assert_eq!(range(text).to_string(), text);
        }
    }
}
