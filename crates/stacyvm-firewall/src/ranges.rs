//! Addresses that no sandbox reaches unless the operator says so, and the pieces of rules that say
//! it. Whoever is refused is told so at once, so that no program waits for nothing.

use std::fmt::Write as _;
use std::net::IpAddr;

use stacyvm_types::Cidr;

/// Connections that one sandbox may have open at once, counted by the host: they share one table.
const CONNECTIONS: u32 = 4096;

/// IPv4 ranges that are no public internet: private, shared, link-local, test, multicast and
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

/// The same of IPv6, and the ranges that lead into IPv4 by translation or tunnel.
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

/// Where clouds answer whoever asks from a machine of theirs with that machine's keys. Closed even
/// inside an open range, unless opened by its very address.
const METADATA: [&str; 7] = [
    "100.100.100.200",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
];

/// What the operator opens and closes beside that.
#[derive(Clone, Copy, Debug)]
pub struct Ranges<'a> {
    /// Open although they are private.
    pub allowed: &'a [Cidr],
    /// Closed, whatever else is said.
    pub denied: &'a [Cidr],
}

impl Ranges<'_> {
    /// The sets that [`judge_ranges`] and [`count_connections`] speak of: the first part of a table.
    pub fn sets(&self, text: &mut String) {
        let exact = |address: &&str| {
            let address: IpAddr = address.parse().expect("an address of the list above");
            !self
                .allowed
                .iter()
                .any(|open| open.is_single() && open.first() == address)
        };
        let metadata: Vec<_> = METADATA
            .iter()
            .copied()
            .filter(exact)
            .map(str::to_owned)
            .collect();
        let of = |ranges: &[Cidr]| ranges.iter().map(Cidr::to_string).collect::<Vec<_>>();
        let owned = |ranges: &[&str]| {
            ranges
                .iter()
                .map(|&range| range.to_owned())
                .collect::<Vec<_>>()
        };
        for (name, ranges) in [
            ("metadata", metadata),
            ("denied", of(self.denied)),
            ("allowed", of(self.allowed)),
            ("private", [owned(&PRIVATE_4), owned(&PRIVATE_6)].concat()),
        ] {
            let (six, four): (Vec<_>, Vec<_>) = ranges.iter().partition(|text| text.contains(':'));
            for (version, kind, members) in [(4, "ipv4_addr", four), (6, "ipv6_addr", six)] {
                let _ = writeln!(
                    text,
                    " set {name}{version} {{\n  type {kind}; flags interval; auto-merge"
                );
                if !members.is_empty() {
                    let members: Vec<_> = members.into_iter().map(String::as_str).collect();
                    let _ = writeln!(text, "  elements = {{ {} }}", members.join(", "));
                }
                text.push_str(" }\n");
            }
        }
        for (version, kind) in [(4, "ipv4_addr"), (6, "ipv6_addr")] {
            let _ = writeln!(
                text,
                " set connections{version} {{\n  type {kind}; flags dynamic; size 65535\n }}"
            );
        }
    }
}

/// Refuses what goes to closed ranges; what goes to one that the operator has opened is `let_through`.
pub fn judge_ranges(text: &mut String, let_through: &[&str]) {
    for (set, open) in [
        ("metadata", false),
        ("denied", false),
        ("allowed", true),
        ("private", false),
    ] {
        for (family, version) in [("ip", 4), ("ip6", 6)] {
            let matching = format!("{family} daddr @{set}{version} ");
            if !open {
                refuse(text, &matching);
                continue;
            }
            for verdict in let_through {
                let _ = writeln!(text, "  {matching}{verdict}");
            }
        }
    }
}

/// Tells whoever sent a matching packet that it is not allowed.
pub fn refuse(text: &mut String, matching: &str) {
    let _ = writeln!(text, "  {matching}meta l4proto tcp reject with tcp reset");
    let _ = writeln!(text, "  {matching}reject with icmpx admin-prohibited");
}

/// Refuses new connections of a sandbox that has very many.
pub fn count_connections(text: &mut String) {
    for (family, version) in [("ip", 4), ("ip6", 6)] {
        let _ = writeln!(
            text,
            "  ct state new add @connections{version} {{ {family} saddr ct count over {CONNECTIONS} }} reject with icmpx admin-prohibited"
        );
    }
}
