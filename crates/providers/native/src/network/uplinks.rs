//! The host's ways out, and whether the kernel passes packets on between them and sandboxes.
//!
//! Forwarding is a setting of the interface where a packet arrives, so it is switched on where
//! sandboxes' answers arrive, never for the whole machine. Where it was off before, the rules
//! close the door again to what is nobody's of ours (see `rules`), and the last network of the
//! machine switches it off at its end.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use rustix::io::Errno;
use stacyvm_sys::netlink::{Link, Netlink};
use stacyvm_types::Cidr;

use super::anchor::OURS;

/// What the host's ways out are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uplinks {
    /// Interfaces where IPv4 answers arrive.
    pub(crate) ipv4: BTreeSet<String>,
    /// Interfaces where IPv6 answers arrive; none when the host has no IPv6 to the outside.
    pub(crate) ipv6: BTreeSet<String>,
    /// The smallest packet size of them, when there is one.
    pub(crate) mtu: Option<u32>,
}

/// How IPv6 packets can be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passing {
    /// The whole machine does already.
    Everywhere,
    /// It can be switched on by interface (Linux 6.17 and later).
    ByInterface,
    /// Only for the whole machine, which is not ours to do: a machine that forwards stops to
    /// listen to its router.
    NotByUs,
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
            if link.name == "lo" || link.name.starts_with(OURS) {
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

    /// Where forwarding has to be switched on, or has been for sandboxes. `before` is what was
    /// earlier, by whichever of our servers.
    pub(crate) fn plan(&self, before: &BTreeSet<String>, passing: Passing) -> BTreeSet<String> {
        let mut marks = BTreeSet::new();
        // When it is on for the whole machine, it is somebody else's to switch off.
        if !is_on("ipv4", "all", "forwarding") {
            let ours =
                |name: &&String| before.contains(*name) || !is_on("ipv4", name, "forwarding");
            marks.extend(self.ipv4.iter().filter(ours).cloned());
        }
        if passing == Passing::ByInterface {
            for name in &self.ipv6 {
                let mark = format!("{name}/6");
                if before.contains(&mark) || !is_on("ipv6", name, "force_forwarding") {
                    marks.insert(mark);
                }
            }
        }
        marks
    }
}

/// Switches forwarding on where `plan` said so.
pub(crate) fn open(marks: &BTreeSet<String>) -> io::Result<()> {
    for mark in marks {
        let (family, name, setting) = setting_of(mark);
        if !is_on(family, name, setting) {
            write(family, name, setting, "1")?;
        }
    }
    Ok(())
}

/// Switches off what was switched on for sandboxes, unless the whole machine forwards by now.
pub(crate) fn close(opened: &BTreeSet<String>) {
    for mark in opened {
        // An interface that is gone has taken its setting along.
        let (family, name, setting) = setting_of(mark);
        if family == "ipv6" || !is_on(family, "all", setting) {
            let _ = write(family, name, setting, "0");
        }
    }
}

/// The setting behind a mark: family, interface, name.
fn setting_of(mark: &str) -> (&'static str, &str, &'static str) {
    match mark.strip_suffix("/6") {
        Some(name) => ("ipv6", name, "force_forwarding"),
        None => ("ipv4", mark, "forwarding"),
    }
}

/// How this machine can pass IPv6 on.
pub(crate) fn ipv6_passing() -> Passing {
    if is_on("ipv6", "all", "forwarding") {
        Passing::Everywhere
    } else if fs::exists(path("ipv6", "all", "force_forwarding")).unwrap_or(false) {
        Passing::ByInterface
    } else {
        Passing::NotByUs
    }
}

/// Lets IPv6 packets that arrive on an interface of ours be passed on.
pub(crate) fn pass_ipv6(interface: &str) -> io::Result<()> {
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
