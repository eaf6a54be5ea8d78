//! What a packet's destination is answered with, by reading the rendered sets and rules as the kernel
//! does: the first rule that matches decides.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::judge_ranges;

/// The verdict of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Rejected,
    /// An opened range.
    Accepted,
    /// No rule matched: a public address.
    Passed,
}

/// A rendered table, read back.
struct Table {
    sets: BTreeMap<String, Vec<Cidr>>,
    rules: Vec<(String, Verdict)>,
}

impl Table {
    fn new(allowed: &[&str], denied: &[&str]) -> Self {
        let parsed = |ranges: &[&str]| {
            let ranges = ranges.iter().map(|range| range.parse().unwrap());
            ranges.collect::<Vec<Cidr>>()
        };
        let (mut sets, mut rules) = (String::new(), String::new());
        Ranges {
            allowed: &parsed(allowed),
            denied: &parsed(denied),
        }
        .write_sets(&mut sets);
        judge_ranges(&mut rules, &["accept"]);
        Self {
            sets: read_sets(&sets),
            rules: rules.lines().map(read_rule).collect(),
        }
    }

    fn verdict(&self, address: &str) -> Verdict {
        let address: IpAddr = address.parse().unwrap();
        let is_member = |set: &String| self.sets[set].iter().any(|range| range.contains(address));
        let matching = self.rules.iter().find(|(set, _)| is_member(set));
        matching.map_or(Verdict::Passed, |(_, verdict)| *verdict)
    }
}

fn read_sets(text: &str) -> BTreeMap<String, Vec<Cidr>> {
    let mut sets: BTreeMap<String, Vec<Cidr>> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix(" set ") {
            name = rest.trim_end_matches(" {").to_owned();
            assert!(!sets.contains_key(&name), "{name} is there twice");
            sets.insert(name.clone(), Vec::new());
        } else if let Some(rest) = line.strip_prefix("  elements = { ") {
            let members = rest.trim_end_matches(" }").split(", ");
            let members = members.map(|member| member.parse::<Cidr>().unwrap());
            sets.get_mut(&name).unwrap().extend(members);
        }
    }
    sets
}

/// `ip daddr @SET VERDICT`, where a verdict for TCP alone is followed by one for everything.
fn read_rule(line: &str) -> (String, Verdict) {
    let (family, rest) = line.trim().split_once(" daddr @").unwrap();
    let (set, verdict) = rest.split_once(' ').unwrap();
    assert!(
        set.ends_with(if family == "ip" { '4' } else { '6' }),
        "{line}"
    );
    let verdict = match verdict {
        "accept" => Verdict::Accepted,
        "reject with icmpx admin-prohibited" | "meta l4proto tcp reject with tcp reset" => {
            Verdict::Rejected
        }
        _ => panic!("{line}"),
    };
    (set.to_owned(), verdict)
}

/// First and last address of every range that the documentation closes, by what it is for: the IANA
/// special-purpose registries of IPv4 and IPv6, multicast, and what leads into IPv4.
const CLOSED: [(&str, &str, &str); 36] = [
    ("this network", "0.0.0.0", "0.255.255.255"),
    ("private (RFC 1918)", "10.0.0.0", "10.255.255.255"),
    ("shared (RFC 6598)", "100.64.0.0", "100.127.255.255"),
    ("loopback", "127.0.0.0", "127.255.255.255"),
    ("link-local", "169.254.0.0", "169.254.255.255"),
    ("private (RFC 1918)", "172.16.0.0", "172.31.255.255"),
    ("protocol assignments", "192.0.0.0", "192.0.0.255"),
    ("test 1", "192.0.2.0", "192.0.2.255"),
    ("AS112", "192.31.196.0", "192.31.196.255"),
    ("AMT", "192.52.193.0", "192.52.193.255"),
    ("6to4 relays", "192.88.99.0", "192.88.99.255"),
    ("private (RFC 1918)", "192.168.0.0", "192.168.255.255"),
    ("benchmarks", "198.18.0.0", "198.19.255.255"),
    ("test 2", "198.51.100.0", "198.51.100.255"),
    ("test 3", "203.0.113.0", "203.0.113.255"),
    ("multicast", "224.0.0.0", "239.255.255.255"),
    ("reserved", "240.0.0.0", "255.255.255.254"),
    ("broadcast", "255.255.255.255", "255.255.255.255"),
    ("unspecified and loopback", "::", "::1"),
    ("compatible with IPv4", "::a00:1", "::ffff:ffff"),
    ("mapped IPv4", "::ffff:0.0.0.0", "::ffff:255.255.255.255"),
    ("translated IPv4", "64:ff9b::", "64:ff9b::ffff:ffff"),
    (
        "translated IPv4, local",
        "64:ff9b:1::",
        "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
    ),
    ("discard", "100::", "100::ffff:ffff:ffff:ffff"),
    ("Teredo", "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff"),
    (
        "benchmarks",
        "2001:2::",
        "2001:2:0:ffff:ffff:ffff:ffff:ffff",
    ),
    (
        "ORCHID",
        "2001:10::",
        "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    (
        "protocol assignments",
        "2001:100::",
        "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    (
        "documentation",
        "2001:db8::",
        "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    ("6to4", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    (
        "documentation",
        "3fff::",
        "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    (
        "segment routing",
        "5f00::",
        "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    (
        "unique local",
        "fc00::",
        "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    (
        "link-local",
        "fe80::",
        "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    (
        "site-local",
        "fec0::",
        "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    (
        "multicast",
        "ff00::",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
];

/// Public addresses, most of them beside a closed range.
const PUBLIC: [&str; 30] = [
    "1.0.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.3.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "64:ff9a:ffff:ffff::1",
    "2000::1",
    "2001:200::",
    "2001:db7:ffff::1",
    "2001:db9::",
    "2003::1",
    "2606:4700:4700::1111",
    "3ffe:ffff::1",
];

#[test]
fn every_range_that_is_not_public_is_closed_from_its_first_address_to_its_last() {
    let table = Table::new(&[], &[]);
    for (purpose, first, last) in CLOSED {
        for address in [first, last] {
            assert_eq!(
                table.verdict(address),
                Verdict::Rejected,
                "{purpose}: {address}"
            );
        }
    }
    for address in METADATA_ADDRESSES {
        assert_eq!(table.verdict(address), Verdict::Rejected, "{address}");
    }
}

#[test]
fn every_closed_range_is_one_that_is_listed_here() {
    let table = Table::new(&[], &[]);
    let closed = table.sets["private4"].iter().chain(&table.sets["private6"]);
    for range in closed {
        let known = CLOSED
            .iter()
            .any(|(_, first, _)| range.contains(first.parse().unwrap()));
        assert!(known, "{range}");
    }
    for address in PUBLIC {
        assert_eq!(table.verdict(address), Verdict::Passed, "{address}");
    }
}

#[test]
fn an_allowed_range_is_open_and_its_neighbours_are_not() {
    let table = Table::new(&["10.1.0.0/16", "fd00:1::/32"], &[]);
    for (address, expected) in [
        ("10.1.2.3", Verdict::Accepted),
        ("10.2.0.1", Verdict::Rejected),
        ("fd00:1::5", Verdict::Accepted),
        ("fd00:2::5", Verdict::Rejected),
        ("93.184.216.34", Verdict::Passed),
    ] {
        assert_eq!(table.verdict(address), expected, "{address}");
    }
}

#[test]
fn a_denied_range_is_closed_although_it_is_allowed_or_public() {
    let table = Table::new(
        &["10.0.0.0/8", "fd00::/8"],
        &["10.9.0.0/16", "93.184.216.0/24", "fd09::/16", "2606::/16"],
    );
    for (address, expected) in [
        ("10.9.0.1", Verdict::Rejected),
        ("10.8.0.1", Verdict::Accepted),
        ("93.184.216.34", Verdict::Rejected),
        ("fd09::1", Verdict::Rejected),
        ("fd08::1", Verdict::Accepted),
        ("2606:4700::1", Verdict::Rejected),
    ] {
        assert_eq!(table.verdict(address), expected, "{address}");
    }
}

#[test]
fn metadata_is_opened_by_its_very_address_alone() {
    for everything in [&["0.0.0.0/0", "::/0"][..], &["169.254.169.254/31"]] {
        let table = Table::new(everything, &[]);
        for address in METADATA_ADDRESSES {
            let expected = Verdict::Rejected;
            assert_eq!(table.verdict(address), expected, "{address} {everything:?}");
        }
    }
    let table = Table::new(&["169.254.169.254", "fd00:ec2::254/128"], &[]);
    for address in METADATA_ADDRESSES {
        let opened = ["169.254.169.254", "fd00:ec2::254"].contains(&address);
        let expected = match opened {
            true => Verdict::Accepted,
            false => Verdict::Rejected,
        };
        assert_eq!(table.verdict(address), expected, "{address}");
    }
    let denied = Table::new(&["169.254.169.254"], &["169.254.0.0/16"]);
    assert_eq!(denied.verdict("169.254.169.254"), Verdict::Rejected);
}

#[test]
fn sets_have_the_form_that_nft_reads_and_an_empty_one_names_no_elements() {
    let mut text = String::new();
    let denied = [
        "203.0.113.0/24".parse().unwrap(),
        "10.0.0.1".parse().unwrap(),
    ];
    let ranges = Ranges {
        allowed: &[],
        denied: &denied,
    };
    ranges.write_sets(&mut text);
    for set in [
        " set metadata6 {\n  type ipv6_addr; flags interval; auto-merge\n  elements = { fd00:ec2::254, fd20:ce::254 }\n }\n",
        " set denied4 {\n  type ipv4_addr; flags interval; auto-merge\n  elements = { 203.0.113.0/24, 10.0.0.1/32 }\n }\n",
        " set denied6 {\n  type ipv6_addr; flags interval; auto-merge\n }\n",
        " set allowed4 {\n  type ipv4_addr; flags interval; auto-merge\n }\n",
        " set connections4 {\n  type ipv4_addr; flags dynamic; size 65535\n }\n",
        " set connections6 {\n  type ipv6_addr; flags dynamic; size 65535\n }\n",
    ] {
        assert!(text.contains(set), "{set}\nis not in\n{text}");
    }
}
