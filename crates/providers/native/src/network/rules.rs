//! The rules: what packets of sandboxes may do. The text of one table of ours for nft(8).
//!
//! They hold for every interface whose name begins as ours do, so that making a sandbox changes no
//! rule. What differs between sandboxes is the group that the host's end of its cable is in.
//!
//! ```text
//! from a sandbox ─ spoofed? ─ to the gateway's name service, or redirected to the proxy ─▶ host
//!                      │                                       all else to the host refused
//!                      └───── private? closed? another sandbox? ─▶ outside, as the host's own
//! to a sandbox ──── only answers
//! ```
//! Nothing here accepts on behalf of others: a packet that we let pass may still be dropped by
//! another table. Whoever is refused is told so at once, so that no program waits for nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use stacyvm_firewall::{Ranges, count_connections, judge_ranges, refuse};
use stacyvm_types::Cidr;

use super::Site;
use super::anchor::OURS;

/// What the rules are made for.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) site: &'a Site,
    pub(crate) allow_host_ports: &'a [u16],
    pub(crate) allow_cidrs: &'a [Cidr],
    pub(crate) deny_cidrs: &'a [Cidr],
    /// Where forwarding was off before us.
    pub(crate) opened: &'a BTreeSet<String>,
    /// Where names are resolved and connections arrive, when that is running.
    pub(crate) egress: Option<&'a EgressPlace>,
}

/// Where the program for names serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EgressPlace {
    /// Its user.
    pub(crate) uid: u32,
    /// Where it resolves names.
    pub(crate) dns: Vec<SocketAddr>,
    /// Where it takes connections.
    pub(crate) proxy: Vec<SocketAddr>,
    /// Whom it asks itself.
    pub(crate) upstreams: Vec<SocketAddr>,
}

/// Commands that remove the table, whether it is there or not.
pub(crate) fn removal(site: &Site) -> String {
    stacyvm_firewall::removal_commands("inet", &site.table())
}

impl Rules<'_> {
    /// Commands that replace the table in one go.
    pub(crate) fn text(&self) -> String {
        let mut text = removal(self.site);
        let _ = writeln!(text, "table inet {} {{", self.site.table());
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

    /// Whose packet it is must be true before anything else is looked at.
    fn prerouting(&self, text: &mut String) {
        let ours = self.site.wildcard();
        let subnet = self.site.subnet.cidr();
        let _ = write!(
            text,
            " chain prerouting {{
  type filter hook prerouting priority raw; policy accept;
  iifname {ours} fib saddr . iif oif missing drop
  iifname != \"lo\" iifname != \"{OURS}*\" ip saddr {subnet} drop
"
        );
        match self.site.prefix {
            Some(prefix) => {
                let prefix = prefix.cidr();
                let _ = writeln!(
                    text,
                    "  iifname != \"lo\" iifname != \"{OURS}*\" ip6 saddr {prefix} drop"
                );
            }
            None => {
                let _ = writeln!(text, "  iifname {ours} meta nfproto ipv6 drop");
            }
        }
        text.push_str(" }\n");
    }

    /// Names go to our own resolver, and connections of restricted sandboxes to our proxy.
    fn redirection(&self, text: &mut String) {
        let restricted = self.site.group(true);
        let ours = self.site.wildcard();
        let gateway = self.site.subnet.gateway();
        text.push_str(" chain redirection {\n  type nat hook prerouting priority dstnat - 5; policy accept;\n");
        if let Some(egress) = self.egress {
            for place in egress.dns.iter().filter(|place| place.is_ipv4()) {
                let _ = writeln!(
                    text,
                    "  iifname {ours} ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 dnat ip to {place}"
                );
            }
            for place in &egress.proxy {
                let family = if place.is_ipv4() { "ip" } else { "ip6" };
                let protocol = if place.is_ipv4() { "ipv4" } else { "ipv6" };
                let _ = writeln!(
                    text,
                    "  iifname {ours} meta iifgroup {restricted} meta nfproto {protocol} meta l4proto tcp dnat {family} to {place}"
                );
            }
        }
        text.push_str(" }\n");
    }

    fn input(&self, text: &mut String) {
        let restricted = self.site.group(true);
        let ours = self.site.wildcard();
        let gateway = self.site.subnet.gateway();
        let _ = write!(
            text,
            " chain input {{
  type filter hook input priority filter; policy accept;
  iifname {ours} jump to_host
  iifname != \"lo\" iifname != \"{OURS}*\" ip daddr {gateway} drop
"
        );
        if let Some(prefix) = self.site.prefix {
            let gateway = prefix.gateway();
            let _ = writeln!(
                text,
                "  iifname != \"lo\" iifname != \"{OURS}*\" ip6 daddr {gateway} drop"
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
                // Only by way of the redirection: a client may not address it by itself.
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
        let restricted = self.site.group(true);
        let ours = self.site.wildcard();
        let _ = write!(
            text,
            " chain forward {{
  type filter hook forward priority filter; policy accept;
  iifname {ours} jump outwards
  oifname {ours} jump inwards
"
        );
        for mark in self.opened {
            let (name, protocol) = match mark.strip_suffix("/6") {
                Some(name) => (name, "ipv6"),
                None => (mark.as_str(), "ipv4"),
            };
            // What somebody else redirects, such as a port of a container, is theirs to judge.
            let _ = writeln!(
                text,
                "  iifname \"{name}\" oifname != \"{OURS}*\" meta nfproto {protocol} ct state new ct status & dnat == 0 drop"
            );
        }
        text.push_str(" }\n chain outwards {\n");
        refuse(text, &format!("oifname \"{OURS}*\" "));
        text.push_str("  ct state invalid drop\n");
        refuse(text, &format!("meta iifgroup {restricted} "));
        judge_ranges(text, &["jump counted", "accept"]);
        text.push_str("  jump counted\n }\n chain counted {\n");
        count_connections(text);
        text.push_str(" }\n chain inwards {\n");
        let _ = writeln!(text, "  meta oifgroup {restricted} drop");
        text.push_str("  ct state established,related accept\n");
        // From another server's sandboxes, whose rules may come after these.
        refuse(text, &format!("iifname \"{OURS}*\" "));
        text.push_str("  drop\n }\n");
    }

    /// Nobody on the host opens connections into a sandbox this way, and the program for names
    /// reaches no more than an open sandbox, whatever it is made to believe.
    fn output(&self, text: &mut String) {
        let ours = self.site.wildcard();
        let _ = write!(
            text,
            " chain output {{
  type filter hook output priority filter; policy accept;
  oifname {ours} ct state new reject with icmpx admin-prohibited
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
        let _ = writeln!(text, "  oifname {ours} ct state established,related accept");
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
        let subnet = self.site.subnet.cidr();
        let _ = write!(
            text,
            " chain postrouting {{
  type nat hook postrouting priority srcnat; policy accept;
  ip saddr {subnet} oifname != \"lo\" oifname != \"{OURS}*\" masquerade
"
        );
        if let Some(prefix) = self.site.prefix {
            let prefix = prefix.cidr();
            let _ = writeln!(
                text,
                "  ip6 saddr {prefix} oifname != \"lo\" oifname != \"{OURS}*\" masquerade"
            );
        }
        text.push_str(" }\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::addresses::{Prefix, Subnet};

    fn site(ipv6: bool) -> Site {
        Site {
            subnet: Subnet::new("10.213.0.0/16".parse().unwrap()).unwrap(),
            prefix: ipv6.then(|| Prefix::of("one")),
            mtu: 1500,
            force_ipv6: false,
        }
    }

    fn text(site: &Site, allow: &[Cidr], opened: &BTreeSet<String>) -> String {
        let rules = Rules {
            site,
            allow_host_ports: &[8080],
            allow_cidrs: allow,
            deny_cidrs: &[],
            opened,
            egress: None,
        };
        rules.text()
    }

    #[test]
    fn metadata_opens_by_its_very_address_alone() {
        let site = site(true);
        let none = BTreeSet::new();
        let closed = text(&site, &["169.254.0.0/16".parse().unwrap()], &none);
        let line = |text: &str| {
            let rest = text.split("set metadata4").nth(1).unwrap();
            rest.lines().nth(2).unwrap().to_owned()
        };
        assert!(line(&closed).contains("169.254.169.254"), "{closed}");
        let open = text(&site, &["169.254.169.254".parse().unwrap()], &none);
        assert!(!line(&open).contains("169.254.169.254"), "{open}");
        assert!(line(&open).contains("169.254.170.2"), "{open}");
    }

    #[test]
    fn without_ipv6_nothing_of_it_passes() {
        let none = BTreeSet::new();
        let drop = "iifname \"svm0ad500-*\" meta nfproto ipv6 drop";
        assert!(text(&site(false), &[], &none).contains(drop));
        assert!(!text(&site(true), &[], &none).contains(drop));
    }

    #[test]
    fn what_was_opened_for_us_is_closed_to_others() {
        let opened = ["eth0".to_owned(), "wan/6".to_owned()].into();
        let text = text(&site(true), &[], &opened);
        for line in [
            "iifname \"eth0\" oifname != \"svm*\" meta nfproto ipv4",
            "iifname \"wan\" oifname != \"svm*\" meta nfproto ipv6",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
