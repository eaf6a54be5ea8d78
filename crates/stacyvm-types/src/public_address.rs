//! Which addresses lead to the public internet, and which are a cloud's own services.
//!
//! The owner of a name chooses its addresses, so a name from an untrusted client is judged by the
//! address that it leads to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services of clouds, which hand a machine's keys to every program on it. A range that is
/// opened does not open them; only one of exactly that address does.
pub const METADATA_ADDRESSES: [&str; 7] = [
    "100.100.100.200",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
];

/// Whether an address is that of a metadata service.
pub fn is_metadata_address(address: IpAddr) -> bool {
    let address = address.to_canonical();
    METADATA_ADDRESSES
        .iter()
        .any(|known| known.parse() == Ok(address))
}

/// Whether an address leads to the public internet. An IPv4 address that is written as an IPv6 one
/// is that IPv4 address.
pub fn is_public_address(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// By the IANA registry of special-purpose addresses, and the few that clouds chose themselves.
fn is_public_v4(address: Ipv4Addr) -> bool {
    const REFUSED: &[(Ipv4Addr, u32)] = &[
        (Ipv4Addr::new(0, 0, 0, 0), 8),
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
        (Ipv4Addr::new(127, 0, 0, 0), 8),
        // Link-local, where most clouds answer questions about the machine.
        (Ipv4Addr::new(169, 254, 0, 0), 16),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 0, 0, 0), 24),
        (Ipv4Addr::new(192, 0, 2, 0), 24),
        (Ipv4Addr::new(192, 88, 99, 0), 24),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(198, 18, 0, 0), 15),
        (Ipv4Addr::new(198, 51, 100, 0), 24),
        (Ipv4Addr::new(203, 0, 113, 0), 24),
        // Public by number, but inside Azure it is the machine's own host.
        (Ipv4Addr::new(168, 63, 129, 16), 32),
        // Multicast, reserved, broadcast.
        (Ipv4Addr::new(224, 0, 0, 0), 3),
    ];
    !REFUSED
        .iter()
        .any(|(first, bits)| address.to_bits() >> (32 - bits) == first.to_bits() >> (32 - bits))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, third, fourth, fifth, sixth, seventh, eighth] = address.segments();
    // An IPv4 address as translators to IPv4 write it leads to that one (RFC 6052).
    if [first, second, third, fourth, fifth, sixth] == [0x64, 0xff9b, 0, 0, 0, 0] {
        let bits = u32::from(seventh) << 16 | u32::from(eighth);
        return is_public_v4(Ipv4Addr::from_bits(bits));
    }
    let is_global = first & 0xe000 == 0x2000;
    let is_special = first == 0x2001 && second < 0x200;
    let is_documentation =
        (first == 0x2001 && second == 0xdb8) || (first == 0x3fff && second < 0x1000);
    // An IPv4 address inside that a relay would go to.
    let is_6to4 = first == 0x2002;
    is_global && !is_special && !is_documentation && !is_6to4
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn metadata_services_are_never_public() {
        for text in METADATA_ADDRESSES {
            let address: IpAddr = text.parse().unwrap();
            assert!(is_metadata_address(address), "{text}");
            assert!(!is_public_address(address), "{text}");
        }
        assert!(!is_metadata_address("169.254.169.253".parse().unwrap()));
        assert!(is_metadata_address(
            "::ffff:169.254.169.254".parse().unwrap()
        ));
    }
}
