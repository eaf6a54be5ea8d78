//! The host's uplinks, and whether the kernel forwards packets between them and sandboxes.
//!
//! Forwarding is a setting of the interface where a packet arrives, so it is enabled where
//! sandboxes' answers arrive, never for the whole machine. Where it was off before, the rules drop
//! what is forwarded for others than sandboxes (see `rules`), and the last network of the machine
//! disables it at its end.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use rustix::io::Errno;
use stacyvm_sys::netlink::{Link, Netlink};
use stacyvm_types::Cidr;

use super::layout::INTERFACE_PREFIX;

/// The interfaces that lead from the host to the outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uplinks {
    /// Interfaces where IPv4 answers arrive.
    pub(crate) ipv4: BTreeSet<String>,
    /// Interfaces where IPv6 answers arrive; none when the host has no IPv6 to the outside.
    pub(crate) ipv6: BTreeSet<String>,
    /// The smallest packet size of them, when there is one.
    pub(crate) mtu: Option<u32>,
}

/// Where IPv6 packets can be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ipv6Forwarding {
    /// The whole machine forwards already.
    Everywhere,
    /// Forwarding can be enabled by interface (Linux 6.17 and later).
    ByInterface,
    /// Forwarding could only be enabled for the whole machine, which would then ignore its router's
    /// announcements: it is left off.
    Unavailable,
}

impl Uplinks {
    /// Looks at the routes. `open` are private ranges that sandboxes may reach.
    pub(crate) fn find(netlink: &mut Netlink, open: &[Cidr]) -> Result<Self, Errno> {
        let links = netlink.links()?;
        let mut found = Self::default();
        for route in netlink.routes()? {
            let Some(link) = links.iter().find(|link| Some(link.index) == route.device) else {
                continue;
            };
            if link.name == "lo" || link.name.starts_with(INTERFACE_PREFIX) {
                continue;
            }
            let wanted = route.prefix == 0
                || format!("{}/{}", route.to, route.prefix)
                    .parse::<Cidr>()
                    .is_ok_and(|range| open.iter().any(|open| open.overlaps(&range)));
            if wanted {
                found.add(link, route.to.is_ipv6());
            }
        }
        Ok(found)
    }

    fn add(&mut self, link: &Link, ipv6: bool) {
        let names = if ipv6 { &mut self.ipv6 } else { &mut self.ipv4 };
        names.insert(link.name.clone());
        let mtu = self.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
        self.mtu = Some(mtu);
    }

    /// Interfaces on which forwarding must be enabled for sandboxes, or has been. `before` are those
    /// on which servers of this machine have enabled it.
    pub(crate) fn needed_forwarding(
        &self,
        before: &BTreeSet<String>,
        ipv6_forwarding: Ipv6Forwarding,
    ) -> BTreeSet<String> {
        let mut interfaces = BTreeSet::new();
        // Forwarding of the whole machine was not enabled here, so it is not disabled here either.
        if !is_on("ipv4", "all", "forwarding") {
            let enabled_here =
                |name: &&String| before.contains(*name) || !is_on("ipv4", name, "forwarding");
            interfaces.extend(self.ipv4.iter().filter(enabled_here).cloned());
        }
        if ipv6_forwarding == Ipv6Forwarding::ByInterface {
            for name in &self.ipv6 {
                let entry = format!("{name}/6");
                if before.contains(&entry) || !is_on("ipv6", name, "force_forwarding") {
                    interfaces.insert(entry);
                }
            }
        }
        interfaces
    }
}

/// Enables forwarding on the interfaces that `needed_forwarding` named.
pub(crate) fn enable_forwarding(interfaces: &BTreeSet<String>) -> io::Result<()> {
    for entry in interfaces {
        let (family, name, setting) = setting_of(entry);
        if !is_on(family, name, setting) {
            write(family, name, setting, "1")?;
        }
    }
    Ok(())
}

/// Disables the forwarding that was enabled for sandboxes, unless the whole machine forwards by now.
pub(crate) fn disable_forwarding(forwarding: &BTreeSet<String>) {
    for entry in forwarding {
        // An interface that is gone has taken its setting along.
        let (family, name, setting) = setting_of(entry);
        if family == "ipv6" || !is_on(family, "all", setting) {
            let _ = write(family, name, setting, "0");
        }
    }
}

/// The setting behind an entry such as `eth0` or `eth0/6`: family, interface, name.
fn setting_of(entry: &str) -> (&'static str, &str, &'static str) {
    match entry.strip_suffix("/6") {
        Some(name) => ("ipv6", name, "force_forwarding"),
        None => ("ipv4", entry, "forwarding"),
    }
}

/// Where this machine can forward IPv6.
pub(crate) fn ipv6_forwarding() -> Ipv6Forwarding {
    if is_on("ipv6", "all", "forwarding") {
        Ipv6Forwarding::Everywhere
    } else if fs::exists(path("ipv6", "all", "force_forwarding")).unwrap_or(false) {
        Ipv6Forwarding::ByInterface
    } else {
        Ipv6Forwarding::Unavailable
    }
}

/// Enables the forwarding of IPv6 packets that arrive on an interface.
pub(crate) fn forward_ipv6(interface: &str) -> io::Result<()> {
    write("ipv6", interface, "force_forwarding", "1")
}

/// The file of a setting, in the network namespace of the thread that opens it.
fn path(family: &str, interface: &str, setting: &str) -> String {
    format!("/proc/sys/net/{family}/conf/{interface}/{setting}")
}

fn is_on(family: &str, interface: &str, setting: &str) -> bool {
    fs::read_to_string(path(family, interface, setting)).is_ok_and(|text| text.trim() != "0")
}

fn write(family: &str, interface: &str, setting: &str, value: &str) -> io::Result<()> {
    fs::write(path(family, interface, setting), value)
}
