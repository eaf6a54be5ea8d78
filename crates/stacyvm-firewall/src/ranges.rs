//! Address ranges that no sandbox reaches unless the operator opens them, as sets of nftables.

use std::fmt::Write as _;
use std::net::IpAddr;

use stacyvm_types::{Cidr, METADATA_ADDRESSES};

/// IPv4 ranges that are not the public internet: private, shared, link-local, test, multicast and
/// reserved (the IANA special-purpose registry, RFC 6890).
const PRIVATE_4: [&str; 16] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
];

/// The same for IPv6, and the ranges that lead into IPv4 by translation or tunnel.
const PRIVATE_6: [&str; 13] = [
    "::/96",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/9",
    "ff00::/8",
];

/// The operator's exceptions from the closed ranges.
#[derive(Clone, Copy, Debug)]
pub struct Ranges<'a> {
    /// Ranges that are open although they are private.
    pub allowed: &'a [Cidr],
    /// Ranges that are closed, even inside an allowed one.
    pub denied: &'a [Cidr],
}

impl Ranges<'_> {
    /// Writes the sets that the rules of [`judge_ranges`](crate::judge_ranges) and
    /// [`count_connections`](crate::count_connections) refer to: the first part of a table.
    pub fn write_sets(&self, text: &mut String) {
        let shown = |ranges: &[Cidr]| ranges.iter().map(Cidr::to_string).collect::<Vec<_>>();
        let private = PRIVATE_4.iter().chain(&PRIVATE_6);
        for (name, ranges) in [
            ("metadata", self.closed_metadata()),
            ("denied", shown(self.denied)),
            ("allowed", shown(self.allowed)),
            (
                "private",
                private.map(|&range| range.to_owned()).collect::<Vec<_>>(),
            ),
        ] {
            let (six, four): (Vec<_>, Vec<_>) =
                ranges.into_iter().partition(|range| range.contains(':'));
            write_set(text, name, 4, &four);
            write_set(text, name, 6, &six);
        }
        for version in [4, 6] {
            let _ = writeln!(
                text,
                " set connections{version} {{\n  type ipv{version}_addr; flags dynamic; size 65535\n }}"
            );
        }
    }

    /// The metadata services that no allowed range names by its very address.
    fn closed_metadata(&self) -> Vec<String> {
        let is_opened = |address: &str| {
            let address: IpAddr = address.parse().expect("an address of the list above");
            self.allowed
                .iter()
                .any(|range| range.is_single() && range.first() == address)
        };
        let closed = METADATA_ADDRESSES
            .iter()
            .filter(|address| !is_opened(address));
        closed.map(|&address| address.to_owned()).collect()
    }
}

fn write_set(text: &mut String, name: &str, version: u8, members: &[String]) {
    let _ = writeln!(
        text,
        " set {name}{version} {{\n  type ipv{version}_addr; flags interval; auto-merge"
    );
    if !members.is_empty() {
        let _ = writeln!(text, "  elements = {{ {} }}", members.join(", "));
    }
    text.push_str(" }\n");
}

#[cfg(test)]
mod tests;
