//! Which addresses a name may lead to.
//!
//! The owner of a name chooses its addresses, and may choose one in this network, this machine, or
//! the address where a cloud hands out credentials. So every address that a name resolves to is
//! checked, and one that is not on the public internet is refused, unless the operator opened it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use stacyvm_types::{Cidr, is_public_address};

/// Permits the public internet and the ranges that the operator opened.
#[derive(Clone, Debug)]
pub(crate) struct AddressFilter {
    opened: Vec<Cidr>,
}

impl AddressFilter {
    pub(crate) fn new(opened: &[Cidr]) -> Self {
        Self {
            opened: opened.to_vec(),
        }
    }

    /// Whether a sandbox may learn this address and connect to it.
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.is_opened(address) || is_public_address(address)
    }

    /// As [`Self::permits`], and the address is not one of this machine's own: a connection to
    /// those would start on this machine, where no firewall between it and the sandbox sees it.
    pub(crate) fn permits_connection(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.is_opened(address) || (is_public_address(address) && !is_own(address))
    }

    fn is_opened(&self, address: IpAddr) -> bool {
        self.opened.iter().any(|range| range.contains(address))
    }
}

/// Whether this machine itself has the address: the kernel connects to an address of its own from
/// that same address. Sends nothing.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0))
        .and_then(|socket| {
            socket.connect(SocketAddr::new(address, 9))?;
            socket.local_addr()
        })
        .map(|source| source.ip());
    // Without a route, connecting will fail and say so.
    source.is_ok_and(|source| source == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(opened: &[&str], address: &str) -> bool {
        let opened: Vec<Cidr> = opened.iter().map(|text| text.parse().unwrap()).collect();
        AddressFilter::new(&opened).permits(address.parse().unwrap())
    }

    #[test]
    fn the_public_internet_is_permitted() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.1.1",
            "198.17.0.1",
            "198.20.0.0",
            "168.63.129.15",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
        ] {
            assert!(permits(&[], address), "{address}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "168.63.129.16",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2001:10::1",
            "2002:7f00:1::1",
            "3fff::1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!permits(&[], address), "{address}");
        }
    }

    #[test]
    fn what_the_operator_opened_is_permitted_and_no_more() {
        assert!(permits(&["10.1.0.0/16"], "10.1.2.3"));
        assert!(permits(&["10.1.0.0/16"], "::ffff:10.1.2.3"));
        assert!(!permits(&["10.1.0.0/16"], "10.2.0.1"));
        assert!(permits(&["fd00:1::/32"], "fd00:1::5"));
        assert!(!permits(&["fd00:1::/32"], "fd00:2::5"));
    }

    #[test]
    fn finds_its_own_addresses() {
        assert!(is_own("127.0.0.1".parse().unwrap()));
        assert!(!is_own("1.1.1.1".parse().unwrap()));
    }
}
