//! The rules for packets of containers with a network: the text of two tables for nft(8), one for
//! routed packets and one for packets that cross the bridge.
//!
//! ```text
//! from a container ─ forged, or IPv6? ─ to the host: only to opened ports ─▶ host
//!                        │
//!                        └─ private? closed? another network of sandboxes? ─▶ outside, as the host's own
//! to a container ──── only answers
//! container to container ── nothing, not even a question for an address
//! ```
//! An accepted packet may still be dropped by the engine's own rules. The bridge's name is random and
//! belongs to this network alone, so the rules hold whatever its addresses are. Only the table of the
//! bridge matches addresses, because not every kernel can match the bridge there.

use std::fmt::Write as _;
use std::net::IpAddr;

use stacyvm_firewall::{Ranges, TABLE_PREFIX, count_connections, judge_ranges, refuse};
use stacyvm_types::Cidr;

/// The prefix of the names of all interfaces of sandboxes on this machine.
const INTERFACE_PREFIX: &str = "svm";
/// The port of name servers.
const DNS_PORT: u16 = 53;

/// What the rules depend on.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    pub(super) tag: &'a str,
    pub(super) bridge: &'a str,
    /// The bridge's IPv4 range.
    pub(super) subnet: Cidr,
    pub(super) allow_host_ports: &'a [u16],
    pub(super) allow_cidrs: &'a [Cidr],
    pub(super) deny_cidrs: &'a [Cidr],
    /// The containers' name servers, which are reached also at private addresses.
    pub(super) name_servers: &'a [IpAddr],
    /// Whether programs of the host may connect to containers.
    pub(super) inbound_from_host: bool,
}

/// The name of both tables of one server.
pub(super) fn table(tag: &str) -> String {
    // No tag contains "_", so different tags have different tables.
    format!("{TABLE_PREFIX}docker_{}", tag.replace('-', "_"))
}

/// The commands that remove both tables, whether they exist or not.
pub(super) fn removal_commands(tag: &str) -> String {
    let table = table(tag);
    ["inet", "bridge"]
        .map(|family| stacyvm_firewall::removal_commands(family, &table))
        .concat()
}

/// Whether both tables are loaded completely, for this bridge. Blocks for some milliseconds.
pub(super) fn are_loaded(tag: &str, bridge: &str) -> bool {
    let table = table(tag);
    let bridge = format!("\"{bridge}\"");
    let texts = ["jump outwards", "jump inwards", "jump to_host", &bridge];
    stacyvm_firewall::is_loaded("inet", &table, &texts)
        && stacyvm_firewall::is_loaded("bridge", &table, &["arp saddr ip"])
}

impl Rules<'_> {
    /// The commands that replace the tables in one transaction.
    pub(super) fn text(&self) -> String {
        let mut text = removal_commands(self.tag);
        let _ = writeln!(text, "table inet {} {{", table(self.tag));
        let ranges = Ranges {
            allowed: self.allow_cidrs,
            denied: self.deny_cidrs,
        };
        ranges.write_sets(&mut text);
        self.prerouting(&mut text);
        self.input(&mut text);
        self.forward(&mut text);
        self.output(&mut text);
        text.push_str("}\n");
        self.across(&mut text);
        text
    }

    /// Drops packets with forged senders before any other rule, and all of IPv6.
    fn prerouting(&self, text: &mut String) {
        let (bridge, subnet) = (self.bridge, self.subnet);
        let _ = write!(
            text,
            " chain prerouting {{
  type filter hook prerouting priority raw; policy accept;
  iifname \"{bridge}\" meta nfproto ipv6 drop
  iifname \"{bridge}\" fib saddr . iif oif missing drop
  iifname != \"lo\" iifname != \"{bridge}\" ip saddr {subnet} drop
 }}
"
        );
    }

    /// Decides about packets to the host.
    fn input(&self, text: &mut String) {
        let (bridge, subnet) = (self.bridge, self.subnet);
        let _ = write!(
            text,
            " chain input {{
  type filter hook input priority filter; policy accept;
  iifname \"{bridge}\" jump to_host
  iifname != \"lo\" iifname != \"{bridge}\" ip daddr {subnet} drop
 }}
 chain to_host {{
  ct state invalid drop
"
        );
        count_connections(text);
        if self.inbound_from_host {
            text.push_str("  ct state established accept\n");
        }
        if !self.allow_host_ports.is_empty() {
            let ports: Vec<_> = self.allow_host_ports.iter().map(u16::to_string).collect();
            let _ = writeln!(
                text,
                "  meta l4proto {{ tcp, udp }} th dport {{ {} }} accept",
                ports.join(", ")
            );
        }
        text.push_str("  ct state related meta l4proto icmp accept\n");
        refuse(text, "");
        text.push_str(" }\n");
    }

    /// Decides about packets that the host forwards, from containers and to them.
    fn forward(&self, text: &mut String) {
        let bridge = self.bridge;
        let _ = write!(
            text,
            " chain forward {{
  type filter hook forward priority filter; policy accept;
  iifname \"{bridge}\" jump outwards
  oifname \"{bridge}\" jump inwards
 }}
 chain outwards {{
"
        );
        // Its own bridge too, because some kernels pass packets that cross a bridge through this chain.
        refuse(text, &format!("oifname \"{INTERFACE_PREFIX}*\" "));
        text.push_str("  ct state invalid drop\n");
        for server in self.name_servers.iter().filter(|server| server.is_ipv4()) {
            let _ = writeln!(
                text,
                "  ip daddr {server} meta l4proto {{ tcp, udp }} th dport {DNS_PORT} jump counted"
            );
            let _ = writeln!(
                text,
                "  ip daddr {server} meta l4proto {{ tcp, udp }} th dport {DNS_PORT} accept"
            );
        }
        judge_ranges(text, &["jump counted", "accept"]);
        text.push_str("  jump counted\n }\n chain counted {\n");
        count_connections(text);
        text.push_str(" }\n chain inwards {\n  ct state established,related accept\n");
        refuse(text, "");
        text.push_str(" }\n");
    }

    /// Rejects connections of the host's programs to containers, unless they are allowed.
    fn output(&self, text: &mut String) {
        if self.inbound_from_host {
            return;
        }
        let bridge = self.bridge;
        let _ = write!(
            text,
            " chain output {{
  type filter hook output priority filter; policy accept;
  oifname \"{bridge}\" ct state new reject with icmpx admin-prohibited
 }}
"
        );
    }

    /// Drops packets from one port of the bridge to another.
    fn across(&self, text: &mut String) {
        let subnet = self.subnet;
        let _ = write!(
            text,
            "table bridge {} {{
 chain forward {{
  type filter hook forward priority filter; policy accept;
  ip saddr {subnet} drop
  ip daddr {subnet} drop
  arp saddr ip {subnet} drop
  arp daddr ip {subnet} drop
 }}
}}
",
            table(self.tag)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name_servers: &[IpAddr], ports: &[u16]) -> String {
        let rules = Rules {
            tag: "a-b",
            bridge: "svmd0123456789",
            subnet: "172.18.0.0/16".parse().unwrap(),
            allow_host_ports: ports,
            allow_cidrs: &[],
            deny_cidrs: &[],
            name_servers,
            inbound_from_host: false,
        };
        rules.text()
    }

    #[test]
    fn a_table_has_a_name_that_nft_reads_and_no_other_server_has() {
        assert_eq!(table("a-b"), "stacyvm_docker_a_b");
        assert_ne!(table("a-b"), table("ab"));
    }

    #[test]
    fn what_is_not_opened_has_no_rule_that_accepts() {
        let closed = text(&[], &[]);
        assert!(!closed.contains("dport"), "{closed}");
        let open = text(
            &["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            &[8080],
        );
        assert!(open.contains("ip daddr 10.0.0.1 meta l4proto { tcp, udp } th dport 53 accept"));
        assert!(open.contains("th dport { 8080 } accept"), "{open}");
        assert!(!open.contains("fd00::1"), "{open}");
    }
}
