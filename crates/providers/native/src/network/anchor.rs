//! The interface that says whose a range is, and carries the gateway's addresses.
//!
//! Its name follows from the range, and the kernel gives a name once: so two servers that start at
//! the same moment cannot both have one range. Its note says which server it belongs to, and what
//! was switched on for it, for a server that starts after this one was killed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustix::io::Errno;
use stacyvm_sys::netlink::{Link, LinkSettings, Netlink};
use stacyvm_types::Cidr;

use super::addresses::{Prefix, Subnet};
use super::error::NetworkError;

/// How every interface of ours begins, of whatever instance.
pub(crate) const OURS: &str = "svm";
/// How the name of an anchor begins.
const ANCHOR: &str = "svmg";
/// How its note begins.
const NOTE: &str = "stacyvm";
/// Kinds of interfaces that may stand with nothing behind them, the plainest first.
const KINDS: [&str; 2] = ["dummy", "bridge"];

/// What a note says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// Whose it is.
    pub(crate) instance: String,
    /// Its range.
    pub(crate) subnet: Subnet,
    /// Interfaces on which forwarding was switched on for sandboxes, `eth0` for IPv4 and `eth0/6`
    /// for IPv6.
    pub(crate) opened: BTreeSet<String>,
}

impl Note {
    fn write(&self) -> String {
        let opened: Vec<_> = self.opened.iter().map(String::as_str).collect();
        format!(
            "{NOTE} {} {} {}",
            self.instance,
            self.subnet.cidr(),
            opened.join(",")
        )
    }

    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some(NOTE) {
            return None;
        }
        let instance = words.next()?.to_owned();
        let subnet = Subnet::new(words.next()?.parse().ok()?)?;
        let opened = words.next().unwrap_or_default().split(',');
        Some(Self {
            instance,
            subnet,
            opened: opened
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// The interface of one range that is ours.
#[derive(Debug)]
pub(crate) struct Anchor {
    pub(crate) device: u32,
    pub(crate) note: Note,
}

/// Every anchor on this machine.
pub(crate) fn all(links: &[Link]) -> impl Iterator<Item = Anchor> {
    links
        .iter()
        .filter(|link| link.name.starts_with(ANCHOR))
        .filter_map(|link| {
            Some(Anchor {
                device: link.index,
                note: Note::read(&link.alias)?,
            })
        })
}

/// The anchor of an instance, when it has one.
pub(crate) fn find(links: &[Link], instance: &str) -> Option<Anchor> {
    all(links).find(|anchor| anchor.note.instance == instance)
}

impl Anchor {
    /// Takes a range: the wanted one, or the first that nothing on this machine uses.
    pub(crate) fn take(
        netlink: &mut Netlink,
        instance: &str,
        wanted: Option<Cidr>,
    ) -> Result<Self, NetworkError> {
        const STEP: &str = "look for a free range";
        let used = used_ranges(netlink).map_err(NetworkError::at(STEP))?;
        let taken = |subnet: Subnet| {
            let range = subnet.cidr();
            used.iter().find(|(used, _)| used.overlaps(&range))
        };
        let Some(wanted) = wanted else {
            for subnet in Subnet::candidates(instance) {
                if taken(subnet).is_none()
                    && let Some(anchor) = Self::make(netlink, instance, subnet)?
                {
                    return Ok(anchor);
                }
            }
            return Err(NetworkError::NoRange);
        };
        let subnet = Subnet::new(wanted).ok_or(NetworkError::BadRange)?;
        if let Some((_, device)) = taken(subnet) {
            return Err(NetworkError::RangeTaken {
                range: wanted.to_string(),
                by: device.clone(),
            });
        }
        Self::make(netlink, instance, subnet)?.ok_or_else(|| NetworkError::RangeTaken {
            range: wanted.to_string(),
            by: name(subnet),
        })
    }

    /// Makes the interface; none when somebody else has just made it.
    fn make(
        netlink: &mut Netlink,
        instance: &str,
        subnet: Subnet,
    ) -> Result<Option<Self>, NetworkError> {
        const STEP: &str = "make the network's interface";
        let name = name(subnet);
        let mut made = Err(Errno::OPNOTSUPP);
        for kind in KINDS {
            made = netlink.make_link(&name, kind);
            if made != Err(Errno::OPNOTSUPP) {
                break;
            }
        }
        match made {
            Err(Errno::EXIST) => return Ok(None),
            other => other.map_err(NetworkError::at(STEP))?,
        }
        let device = netlink.link(&name).map_err(NetworkError::at(STEP))?.index;
        let mut anchor = Self {
            device,
            note: Note {
                instance: instance.to_owned(),
                subnet,
                opened: BTreeSet::new(),
            },
        };
        match anchor.record(netlink, BTreeSet::new()) {
            Ok(()) => Ok(Some(anchor)),
            Err(error) => {
                let _ = netlink.remove_link(device);
                Err(error)
            }
        }
    }

    /// Notes what has been switched on for us.
    pub(crate) fn record(
        &mut self,
        netlink: &mut Netlink,
        opened: BTreeSet<String>,
    ) -> Result<(), NetworkError> {
        self.note.opened = opened;
        netlink
            .set_alias(self.device, &self.note.write())
            .map_err(NetworkError::at("mark the network's interface"))
    }

    /// Switches it on, with the gateway's addresses.
    pub(crate) fn raise(
        &self,
        netlink: &mut Netlink,
        prefix: Option<Prefix>,
    ) -> Result<(), NetworkError> {
        let raise = || -> Result<(), Errno> {
            netlink.set_up(self.device, LinkSettings::default())?;
            netlink.add_address(self.device, self.note.subnet.gateway().into())?;
            if let Some(prefix) = prefix {
                netlink.add_address(self.device, prefix.gateway().into())?;
            }
            Ok(())
        };
        let mut raise = raise;
        raise().map_err(NetworkError::at("give the gateway its address"))
    }
}

fn name(subnet: Subnet) -> String {
    format!("{ANCHOR}{}", subnet.tag())
}

/// What routes of this machine lead to, and through what.
fn used_ranges(netlink: &mut Netlink) -> Result<Vec<(Cidr, String)>, Errno> {
    let links = netlink.links()?;
    let mut used: Vec<_> = netlink
        .routes()?
        .into_iter()
        .filter(|route| route.prefix > 0)
        .filter_map(|route| {
            let range = format!("{}/{}", route.to, route.prefix).parse().ok()?;
            let device = links.iter().find(|link| Some(link.index) == route.device);
            let by = device.map_or_else(|| "a route".to_owned(), |link| link.name.clone());
            Some((range, by))
        })
        .collect();
    used.extend(all(&links).map(|anchor| {
        let by = name(anchor.note.subnet);
        (anchor.note.subnet.cidr(), by)
    }));
    // An address alone, with no route of its own in the main table.
    let local = std::fs::read_to_string("/proc/thread-self/net/fib_trie").unwrap_or_default();
    used.extend(local_addresses(&local).map(|address| {
        let range = format!("{address}/32")
            .parse()
            .expect("an address is a range");
        (range, "an address of this machine".to_owned())
    }));
    Ok(used)
}

/// The machine's own IPv4 addresses, from the text of `/proc/net/fib_trie` (proc(5) names the file).
fn local_addresses(text: &str) -> impl Iterator<Item = IpAddr> {
    let mut last = None;
    text.lines().filter_map(move |line| {
        if let Some(address) = line.trim_start().strip_prefix("|-- ") {
            last = address.parse().ok();
            return None;
        }
        line.contains("/32 host LOCAL").then_some(last).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back_as_written() {
        let mut note = Note {
            instance: "a-b_1".to_owned(),
            subnet: Subnet::new("10.213.0.0/16".parse().unwrap()).unwrap(),
            opened: BTreeSet::new(),
        };
        assert_eq!(Note::read(&note.write()).unwrap(), note);
        note.opened = ["eth0".to_owned(), "eth0/6".to_owned()].into();
        assert_eq!(Note::read(&note.write()).unwrap(), note);
        for other in [
            "",
            "stacyvm",
            "stacyvm one",
            "docker one 10.213.0.0/16",
            "stacyvm one x",
        ] {
            assert_eq!(Note::read(other), None, "{other:?}");
        }
        let anchors = [
            Link {
                index: 4,
                name: "svmg0ad500".to_owned(),
                alias: note.write(),
                mtu: 1500,
                group: 0,
            },
            Link {
                index: 5,
                name: "svm0ad500-2".to_owned(),
                alias: note.write(),
                mtu: 1500,
                group: 0,
            },
        ];
        assert_eq!(all(&anchors).count(), 1);
        assert_eq!(find(&anchors, "a-b_1").unwrap().device, 4);
        assert!(find(&anchors, "other").is_none());
    }

    #[test]
    fn own_addresses_are_read_from_the_kernels_table() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.5.0.1\n        /32 host LOCAL\n     |-- 10.5.0.255\n        /32 link BROADCAST\n";
        let found: Vec<_> = local_addresses(text).collect();
        assert_eq!(found, ["10.5.0.1".parse::<IpAddr>().unwrap()]);
    }
}
