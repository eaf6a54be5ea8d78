//! The firewall rules for packets of sandboxes: the text of one table for nft(8).
//!
//! They hold for every interface whose name has the instance's prefix, so that making a sandbox
//! changes no rule. What differs between sandboxes is the group of the host's end of the veth pair.
//!
//! ```text
//! from a sandbox ─ spoofed? ─ to the gateway's name service, or redirected to the proxy ─▶ host
//!                      │                                       all else to the host refused
//!                      └───── private? closed? another sandbox? ─▶ outside, as the host's own
//! to a sandbox ──── only answers
//! ```
//! Nothing here overrides other tables: a packet that passes these rules may still be dropped by
//! another table. A refusal is answered at once, so that no program waits for a timeout.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use stacyvm_firewall::{Ranges, count_connections, judge_ranges, refuse};
use stacyvm_types::Cidr;

use super::layout::{INTERFACE_PREFIX, NetworkLayout};

/// What the rules are made from.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) layout: &'a NetworkLayout,
    pub(crate) allow_host_ports: &'a [u16],
    pub(crate) allow_cidrs: &'a [Cidr],
    pub(crate) deny_cidrs: &'a [Cidr],
    /// Interfaces on which forwarding was enabled for sandboxes.
    pub(crate) forwarding: &'a BTreeSet<String>,
    /// The program that resolves names, when it runs.
    pub(crate) egress: Option<&'a EgressEndpoints>,
}

/// The addresses of the program that resolves names and enforces lists of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EgressEndpoints {
    /// The user that it runs as.
    pub(crate) uid: u32,
    /// Where it resolves names.
    pub(crate) dns: Vec<SocketAddr>,
    /// Where it accepts connections.
    pub(crate) proxy: Vec<SocketAddr>,
    /// The name servers that it asks.
    pub(crate) upstreams: Vec<SocketAddr>,
}

/// Commands that remove the table, whether it is there or not.
pub(crate) fn removal(layout: &NetworkLayout) -> String {
    stacyvm_firewall::removal_commands("inet", &layout.table())
}

impl Rules<'_> {
    /// Commands that replace the table in one go.
    pub(crate) fn text(&self) -> String {
        let mut text = removal(self.layout);
        let _ = writeln!(text, "table inet {} {{", self.layout.table());
        let ranges = Ranges {
            allowed: self.allow_cidrs,
            denied: self.deny_cidrs,
        };
        ranges.write_sets(&mut text);
        self.prerouting(&mut text);
        self.redirection(&mut text);
        self.input(&mut text);
        self.forward(&mut text);
        self.output(&mut text);
        self.postrouting(&mut text);
        text.push_str("}\n");
        text
    }

    /// Drops packets with a forged source address, before any other rule.
    fn prerouting(&self, text: &mut String) {
        let sandboxes = self.layout.wildcard();
        let subnet = self.layout.subnet.cidr();
        let _ = write!(
            text,
            " chain prerouting {{
  type filter hook prerouting priority raw; policy accept;
  iifname {sandboxes} fib saddr . iif oif missing drop
  iifname != \"lo\" iifname != \"{INTERFACE_PREFIX}*\" ip saddr {subnet} drop
"
        );
        match self.layout.prefix {
            Some(prefix) => {
                let prefix = prefix.cidr();
                let _ = writeln!(
                    text,
                    "  iifname != \"lo\" iifname != \"{INTERFACE_PREFIX}*\" ip6 saddr {prefix} drop"
                );
            }
            None => {
                let _ = writeln!(text, "  iifname {sandboxes} meta nfproto ipv6 drop");
            }
        }
        text.push_str(" }\n");
    }

    /// Redirects name queries to the resolver, and connections of restricted sandboxes to the proxy.
    fn redirection(&self, text: &mut String) {
        let restricted = self.layout.group(true);
        let sandboxes = self.layout.wildcard();
        let gateway = self.layout.subnet.gateway();
        text.push_str(" chain redirection {\n  type nat hook prerouting priority dstnat - 5; policy accept;\n");
        if let Some(egress) = self.egress {
            for place in egress.dns.iter().filter(|place| place.is_ipv4()) {
                let _ = writeln!(
                    text,
                    "  iifname {sandboxes} ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {place}"
                );
            }
            for place in &egress.proxy {
                let family = if place.is_ipv4() { "ip" } else { "ip6" };
                let protocol = if place.is_ipv4() { "ipv4" } else { "ipv6" };
                let _ = writeln!(
                    text,
                    "  iifname {sandboxes} meta iifgroup {restricted} meta nfproto {protocol} meta l4proto tcp dnat {family} to {place}"
                );
            }
        }
        text.push_str(" }\n");
    }

    fn input(&self, text: &mut String) {
        let restricted = self.layout.group(true);
        let sandboxes = self.layout.wildcard();
        let gateway = self.layout.subnet.gateway();
        let _ = write!(
            text,
            " chain input {{
  type filter hook input priority filter; policy accept;
  iifname {sandboxes} jump to_host
  iifname != \"lo\" iifname != \"{INTERFACE_PREFIX}*\" ip daddr {gateway} drop
"
        );
        if let Some(prefix) = self.layout.prefix {
            let gateway = prefix.gateway();
            let _ = writeln!(
                text,
                "  iifname != \"lo\" iifname != \"{INTERFACE_PREFIX}*\" ip6 daddr {gateway} drop"
            );
        }
        text.push_str(" }\n chain to_host {\n  ct state invalid drop\n");
        count_connections(text);
        if let Some(egress) = self.egress {
            for place in egress.dns.iter().chain(&egress.proxy) {
                let (family, address, port) = match place.ip() {
                    IpAddr::V4(address) => ("ip", address.to_string(), place.port()),
                    IpAddr::V6(address) => ("ip6", address.to_string(), place.port()),
                };
                // Only redirected packets: a client may not address the program by itself.
                let _ = writeln!(
                    text,
                    "  ct status dnat {family} daddr {address} meta l4proto {{ tcp, udp }} th dport {port} accept"
                );
            }
        }
        if !self.allow_host_ports.is_empty() {
            let ports: Vec<_> = self.allow_host_ports.iter().map(u16::to_string).collect();
            let _ = writeln!(
                text,
                "  meta iifgroup != {restricted} meta l4proto {{ tcp, udp }} th dport {{ {} }} accept",
                ports.join(", ")
            );
        }
        text.push_str("  ct state related meta l4proto { icmp, ipv6-icmp } accept\n");
        refuse(text, "");
        text.push_str(" }\n");
    }

    fn forward(&self, text: &mut String) {
        let restricted = self.layout.group(true);
        let sandboxes = self.layout.wildcard();
        let _ = write!(
            text,
            " chain forward {{
  type filter hook forward priority filter; policy accept;
  iifname {sandboxes} jump outwards
  oifname {sandboxes} jump inwards
"
        );
        for entry in self.forwarding {
            let (name, protocol) = match entry.strip_suffix("/6") {
                Some(name) => (name, "ipv6"),
                None => (entry.as_str(), "ipv4"),
            };
            // What other programs redirect, such as a port of a container, their rules decide about.
            let _ = writeln!(
                text,
                "  iifname \"{name}\" oifname != \"{INTERFACE_PREFIX}*\" meta nfproto {protocol} ct state new ct status & dnat == 0 drop"
            );
        }
        text.push_str(" }\n chain outwards {\n");
        refuse(text, &format!("oifname \"{INTERFACE_PREFIX}*\" "));
        text.push_str("  ct state invalid drop\n");
        refuse(text, &format!("meta iifgroup {restricted} "));
        judge_ranges(text, &["jump counted", "accept"]);
        text.push_str("  jump counted\n }\n chain counted {\n");
        count_connections(text);
        text.push_str(" }\n chain inwards {\n");
        let _ = writeln!(text, "  meta oifgroup {restricted} drop");
        text.push_str("  ct state established,related accept\n");
        // From another server's sandboxes, whose rules may come after these.
        refuse(text, &format!("iifname \"{INTERFACE_PREFIX}*\" "));
        text.push_str("  drop\n }\n");
    }

    /// Refuses connections from the host into a sandbox, and limits the program that resolves names to
    /// what an open sandbox reaches, whatever a sandbox makes it ask for.
    fn output(&self, text: &mut String) {
        let sandboxes = self.layout.wildcard();
        let _ = write!(
            text,
            " chain output {{
  type filter hook output priority filter; policy accept;
  oifname {sandboxes} ct state new reject with icmpx admin-prohibited
"
        );
        let Some(egress) = self.egress else {
            text.push_str(" }\n");
            return;
        };
        let _ = writeln!(
            text,
            "  meta skuid {} jump egress\n }}\n chain egress {{",
            egress.uid
        );
        let _ = writeln!(
            text,
            "  oifname {sandboxes} ct state established,related accept"
        );
        for upstream in &egress.upstreams {
            let family = if upstream.is_ipv4() { "ip" } else { "ip6" };
            let _ = writeln!(
                text,
                "  {family} daddr {} meta l4proto {{ tcp, udp }} th dport {} accept",
                upstream.ip(),
                upstream.port()
            );
        }
        refuse(text, "fib daddr type != unicast ");
        judge_ranges(text, &["accept"]);
        text.push_str(" }\n");
    }

    fn postrouting(&self, text: &mut String) {
        let subnet = self.layout.subnet.cidr();
        let _ = write!(
            text,
            " chain postrouting {{
  type nat hook postrouting priority srcnat; policy accept;
  ip saddr {subnet} oifname != \"lo\" oifname != \"{INTERFACE_PREFIX}*\" masquerade
"
        );
        if let Some(prefix) = self.layout.prefix {
            let prefix = prefix.cidr();
            let _ = writeln!(
                text,
                "  ip6 saddr {prefix} oifname != \"lo\" oifname != \"{INTERFACE_PREFIX}*\" masquerade"
            );
        }
        text.push_str(" }\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::addresses::{Prefix, Subnet};

    fn layout(ipv6: bool) -> NetworkLayout {
        NetworkLayout {
            subnet: Subnet::new("10.213.0.0/16".parse().unwrap()).unwrap(),
            prefix: ipv6.then(|| Prefix::of("one")),
            mtu: 1500,
            force_ipv6: false,
        }
    }

    fn text(layout: &NetworkLayout, allow: &[Cidr], forwarding: &BTreeSet<String>) -> String {
        let rules = Rules {
            layout,
            allow_host_ports: &[8080],
            allow_cidrs: allow,
            deny_cidrs: &[],
            forwarding,
            egress: None,
        };
        rules.text()
    }

    #[test]
    fn metadata_opens_by_its_very_address_alone() {
        let layout = layout(true);
        let none = BTreeSet::new();
        let closed = text(&layout, &["169.254.0.0/16".parse().unwrap()], &none);
        let line = |text: &str| {
            let rest = text.split("set metadata4").nth(1).unwrap();
            rest.lines().nth(2).unwrap().to_owned()
        };
        assert!(line(&closed).contains("169.254.169.254"), "{closed}");
        let open = text(&layout, &["169.254.169.254".parse().unwrap()], &none);
        assert!(!line(&open).contains("169.254.169.254"), "{open}");
        assert!(line(&open).contains("169.254.170.2"), "{open}");
    }

    #[test]
    fn without_ipv6_nothing_of_it_passes() {
        let none = BTreeSet::new();
        let drop = "iifname \"svm0ad500-*\" meta nfproto ipv6 drop";
        assert!(text(&layout(false), &[], &none).contains(drop));
        assert!(!text(&layout(true), &[], &none).contains(drop));
    }

    #[test]
    fn what_was_opened_for_us_is_closed_to_others() {
        let forwarding = ["eth0".to_owned(), "wan/6".to_owned()].into();
        let text = text(&layout(true), &[], &forwarding);
        for line in [
            "iifname \"eth0\" oifname != \"svm*\" meta nfproto ipv4",
            "iifname \"wan\" oifname != \"svm*\" meta nfproto ipv6",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
