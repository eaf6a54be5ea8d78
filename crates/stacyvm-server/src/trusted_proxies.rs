//! The proxies whose word on a client's address is believed.
//!
//! Any client can send `X-Forwarded-For`. It is looked at only when the connection itself comes from
//! a proxy that the operator named, and read from the right: each proxy appends the address that
//! it saw, so the first address from the right that is no trusted proxy's cannot be made up by a
//! client.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use stacyvm_types::Cidr;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies that are believed.
#[derive(Clone, Debug)]
pub(crate) struct TrustedProxies(Vec<Cidr>);

impl TrustedProxies {
    pub(crate) fn new(ranges: &[Cidr]) -> Self {
        Self(ranges.to_vec())
    }

    /// Whether an address is a trusted proxy's.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|range| range.contains(address))
    }

    /// The client of a request that came over a connection from `peer`.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.contains(client) {
            return client;
        }
        let lines = headers.get_all(FORWARDED_FOR);
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let hops = lines
            .iter()
            .rev()
            .flat_map(|line| line.rsplit(|byte| *byte == b','));
        for hop in hops {
            // What is no address was not written by a proxy that we know how to read.
            let Some(address) = address_of(hop) else {
                return client;
            };
            client = address;
            if !self.contains(client) {
                return client;
            }
        }
        client
    }
}

/// The address of one entry, which may carry a port.
fn address_of(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse().ok();
    let address = address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn client(peer: &str, lines: &[&str]) -> String {
        let ranges = ["10.0.0.0/8", "fd00::/8", "127.0.0.1"];
        let ranges: Vec<Cidr> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        let proxies = TrustedProxies::new(&ranges);
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_a_trusted_peer_is_believed() {
        for peer in ["192.0.2.1", "2001:db8::1", "127.0.0.2"] {
            assert_eq!(client(peer, &["198.51.100.7"]), peer);
        }
        for peer in ["10.1.2.3", "fd00::5", "127.0.0.1", "::ffff:10.0.0.1"] {
            assert_eq!(client(peer, &["198.51.100.7"]), "198.51.100.7", "{peer}");
        }
        assert_eq!(client("10.1.2.3", &[]), "10.1.2.3");
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_counts() {
        for (lines, expected) in [
            // The client wrote the first one.
            (&["1.1.1.1, 198.51.100.7"][..], "198.51.100.7"),
            (&["1.1.1.1, 198.51.100.7, 10.9.9.9"], "198.51.100.7"),
            (
                &["1.1.1.1", "198.51.100.7", "10.9.9.9,10.8.8.8"],
                "198.51.100.7",
            ),
            (&["198.51.100.7", " 10.9.9.9 "], "198.51.100.7"),
            // All are ours: the farthest one.
            (&["10.9.9.9,10.8.8.8"], "10.9.9.9"),
            // Ports and brackets.
            (&["198.51.100.7:4711"], "198.51.100.7"),
            (&["[2001:db8::9]:4711"], "2001:db8::9"),
            (&["[2001:db8::9]"], "2001:db8::9"),
            (&["2001:db8::9"], "2001:db8::9"),
            (&["::ffff:198.51.100.7"], "198.51.100.7"),
            // Nonsense ends the search at the last that is known.
            (&["198.51.100.7, unknown"], "10.1.2.3"),
            (&["198.51.100.7, unknown, 10.9.9.9"], "10.9.9.9"),
            (&["198.51.100.7,"], "10.1.2.3"),
            (&[""], "10.1.2.3"),
        ] {
            assert_eq!(client("10.1.2.3", lines), expected, "{lines:?}");
        }
    }
}
