//! The addresses and names that make up the network of one instance.
//!
//! Everything here follows from the range of addresses, so that rules and interfaces of two
//! instances on one machine never meet.

use super::addresses::{Prefix, Subnet};

/// How the name of every interface of a StacyVM network begins, of whatever instance.
pub(super) const INTERFACE_PREFIX: &str = "svm";

/// The usual size of a packet, bytes.
pub(super) const DEFAULT_MTU: u32 = 1500;
/// The smallest size of packets with which IPv6 works (RFC 8200, section 5).
pub(super) const MIN_MTU: u32 = 1280;

/// The addresses and names of one instance's network, which do not change while a server runs.
#[derive(Clone, Debug)]
pub(crate) struct NetworkLayout {
    pub(super) subnet: Subnet,
    /// None when sandboxes have no IPv6.
    pub(super) prefix: Option<Prefix>,
    /// The largest packet of sandboxes, bytes.
    pub(super) mtu: u32,
    /// Whether IPv6 forwarding is enabled by interface, so for each veth pair as well.
    pub(super) force_ipv6: bool,
}

impl NetworkLayout {
    /// The name of the firewall table.
    pub(super) fn table(&self) -> String {
        format!("{}{}", stacyvm_firewall::TABLE_PREFIX, self.subnet.tag())
    }

    /// The interface group of the sandboxes that reach only servers on a list of names, or of all
    /// others.
    pub(super) fn group(&self, restricted: bool) -> u32 {
        const GROUP_BASE: u32 = 0x4000_0000;
        GROUP_BASE | (self.subnet.number() << 1) | u32::from(restricted)
    }

    /// The sandbox's number in the name of the host's end of its veth pair.
    pub(super) fn number_of(&self, interface: &str) -> Option<u32> {
        let digits = interface.strip_prefix(&self.interface_prefix())?;
        u32::from_str_radix(digits, 16).ok()
    }

    /// The name of the host's end of a sandbox's veth pair.
    pub(super) fn interface(&self, number: u32) -> String {
        format!("{}{number:x}", self.interface_prefix())
    }

    /// How the names of the host's ends begin.
    pub(super) fn interface_prefix(&self) -> String {
        format!("{INTERFACE_PREFIX}{}-", self.subnet.tag())
    }

    /// The pattern for the host's ends in rules of nft(8).
    pub(super) fn wildcard(&self) -> String {
        format!("\"{}*\"", self.interface_prefix())
    }
}
