//! The rules: what packets of containers with a network may do. The text of two tables of ours for
//! nft(8), one for what is routed and one for what crosses the bridge.
//!
//! ```text
//! from a container ─ forged, or IPv6? ─ to the host: only to opened ports ─▶ host
//!                        │
//!                        └─ private? closed? another network of sandboxes? ─▶ outside, as the host's own
//! to a container ──── only answers
//! container to container ── nothing, not even a question for an address
//! ```
//! Nothing here accepts on behalf of others: what we let pass the engine's own rules may still drop.
//! The bridge's name was drawn for this network alone, so the rules hold whatever its addresses are;
//! only the table of the bridge goes by addresses, because not every kernel can tell bridges apart
//! there.

use std::fmt::Write as _;
use std::net::IpAddr;

use stacyvm_firewall::{Ranges, TABLE_PREFIX, count_connections, judge_ranges, refuse};
use stacyvm_types::Cidr;

/// How bridges of sandboxes begin, and cables of other sandboxes on this machine.
const OURS: &str = "svm";
/// Where names are asked for.
const DNS: u16 = 53;

/// What the rules are made for.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    pub(super) tag: &'a str,
    pub(super) bridge: &'a str,
    /// IPv4, as the engine chose it.
    pub(super) subnet: Cidr,
    pub(super) allow_host_ports: &'a [u16],
    pub(super) allow_cidrs: &'a [Cidr],
    pub(super) deny_cidrs: &'a [Cidr],
    /// Whom containers ask for names, however private that address is.
    pub(super) name_servers: &'a [IpAddr],
    /// Whether programs of the host may connect to containers.
    pub(super) inbound_from_host: bool,
}

/// The name of both tables of a server.
pub(super) fn table(tag: &str) -> String {
    // No tag has the character, so no two tags become one.
    format!("{TABLE_PREFIX}docker_{}", tag.replace('-', "_"))
}

/// Commands that remove both tables, whether they are there or not.
pub(super) fn removal(tag: &str) -> String {
    let table = table(tag);
    ["inet", "bridge"]
        .map(|family| stacyvm_firewall::removal_commands(family, &table))
        .concat()
}

/// Whether both tables stand as they were loaded, for this bridge. Blocks for some milliseconds.
pub(super) fn stand(tag: &str, bridge: &str) -> bool {
    let table = table(tag);
    let bridge = format!("\"{bridge}\"");
    let words = ["jump outwards", "jump inwards", "jump to_host", &bridge];
    stacyvm_firewall::is_loaded("inet", &table, &words)
        && stacyvm_firewall::is_loaded("bridge", &table, &["arp saddr ip"])
}

impl Rules<'_> {
    /// Commands that replace the tables in one go.
    pub(super) fn text(&self) -> String {
        let mut text = removal(self.tag);
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

    /// Whose packet it is must be true before anything else is looked at.
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
        // Also to its own bridge: what crosses it comes here where the kernel shows it.
        refuse(text, &format!("oifname \"{OURS}*\" "));
        text.push_str("  ct state invalid drop\n");
        for server in self.name_servers.iter().filter(|server| server.is_ipv4()) {
            let _ = writeln!(
                text,
                "  ip daddr {server} meta l4proto {{ tcp, udp }} th dport {DNS} jump counted"
            );
            let _ = writeln!(
                text,
                "  ip daddr {server} meta l4proto {{ tcp, udp }} th dport {DNS} accept"
            );
        }
        judge_ranges(text, &["jump counted", "accept"]);
        text.push_str("  jump counted\n }\n chain counted {\n");
        count_connections(text);
        text.push_str(" }\n chain inwards {\n  ct state established,related accept\n");
        refuse(text, "");
        text.push_str(" }\n");
    }

    /// Nobody on the host opens connections into a container, unless somebody there is to.
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

    /// Nothing goes from one port of the bridge to another.
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
