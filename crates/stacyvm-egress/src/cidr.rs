//! A range of addresses: `10.0.0.0/8`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a range is an address, a slash and how many bits count, none set after them: \"10.0.0.0/8\""
)]
pub struct ParseCidrError;

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    first: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let rest = u32::MAX.checked_shr(self.bits.into()).unwrap_or(0);
                first.to_bits() == address.to_bits() & !rest
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let rest = u128::MAX.checked_shr(self.bits.into()).unwrap_or(0);
                first.to_bits() == address.to_bits() & !rest
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    /// An address alone is a range of one.
    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| ParseCidrError)?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| ParseCidrError)?
            }
            Some(_) => return Err(ParseCidrError),
            None => most,
        };
        let range = Self { first, bits };
        // Bits after the counted ones are a slip, and it is not clear of which part.
        if bits > most || !range.contains(first) {
            return Err(ParseCidrError);
        }
        Ok(range)
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

    #[test]
    fn ranges_end_where_their_bits_say() {
        let within = |range: &str, address: &str| {
            let range: Cidr = range.parse().unwrap();
            range.contains(address.parse().unwrap())
        };
        assert!(within("10.0.0.0/8", "10.255.0.1"));
        assert!(!within("10.0.0.0/8", "11.0.0.0"));
        assert!(within("0.0.0.0/0", "255.1.2.3"));
        assert!(within("192.0.2.7", "192.0.2.7"));
        assert!(!within("192.0.2.7/32", "192.0.2.6"));
        assert!(within("fd00::/8", "fdff::1"));
        assert!(!within("fd00::/8", "fc00::1"));
        assert!(within("::/0", "2001:db8::1"));
        assert!(!within("::/0", "10.0.0.1"));
    }

    #[test]
    fn slips_are_refused() {
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
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(ParseCidrError), "{text:?}");
        }
        let range: Cidr = "10.0.0.0/8".parse().unwrap();
        assert_eq!(range.to_string().parse(), Ok(range));
    }
}
