//! The interface that claims a range for one instance and carries the gateway's addresses.
//!
//! Its name follows from the range, and the kernel gives a name once: so two servers that start at
//! the same moment cannot both have one range. Its alias says which instance it belongs to and on
//! which interfaces forwarding was enabled, for a server that starts after this one was killed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustix::io::Errno;
use stacyvm_sys::netlink::{Link, LinkSettings, Netlink};
use stacyvm_types::Cidr;

use super::addresses::{Prefix, Subnet};
use super::error::NetworkError;

/// How the name of a gateway interface begins.
const GATEWAY_PREFIX: &str = "svmg";
/// How its alias begins.
const ALIAS_PREFIX: &str = "stacyvm";
/// Kinds of interfaces that need nothing behind them, the plainest first.
const KINDS: [&str; 2] = ["dummy", "bridge"];

/// What the alias of a gateway interface says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AliasMetadata {
    /// The instance that it belongs to.
    pub(crate) instance: String,
    /// Its range.
    pub(crate) subnet: Subnet,
    /// Interfaces on which forwarding was enabled for sandboxes, `eth0` for IPv4 and `eth0/6`
    /// for IPv6.
    pub(crate) forwarding: BTreeSet<String>,
}

impl AliasMetadata {
    fn to_alias(&self) -> String {
        let forwarding: Vec<_> = self.forwarding.iter().map(String::as_str).collect();
        format!(
            "{ALIAS_PREFIX} {} {} {}",
            self.instance,
            self.subnet.cidr(),
            forwarding.join(",")
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some(ALIAS_PREFIX) {
            return None;
        }
        let instance = words.next()?.to_owned();
        let subnet = Subnet::new(words.next()?.parse().ok()?)?;
        let forwarding = words.next().unwrap_or_default().split(',');
        Some(Self {
            instance,
            subnet,
            forwarding: forwarding
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// The gateway interface of one range.
#[derive(Debug)]
pub(crate) struct GatewayInterface {
    pub(crate) device: u32,
    pub(crate) metadata: AliasMetadata,
}

/// Every gateway interface on this machine.
pub(crate) fn all(links: &[Link]) -> impl Iterator<Item = GatewayInterface> {
    links
        .iter()
        .filter(|link| link.name.starts_with(GATEWAY_PREFIX))
        .filter_map(|link| {
            Some(GatewayInterface {
                device: link.index,
                metadata: AliasMetadata::parse(&link.alias)?,
            })
        })
}

/// The gateway interface of an instance, when it has one.
pub(crate) fn find(links: &[Link], instance: &str) -> Option<GatewayInterface> {
    all(links).find(|gateway| gateway.metadata.instance == instance)
}

impl GatewayInterface {
    /// Claims a range: the wanted one, or the first that nothing on this machine uses.
    pub(crate) fn claim(
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
                    && let Some(gateway) = Self::make(netlink, instance, subnet)?
                {
                    return Ok(gateway);
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

    /// Makes the interface; none when another server has just made it.
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
        let mut gateway = Self {
            device,
            metadata: AliasMetadata {
                instance: instance.to_owned(),
                subnet,
                forwarding: BTreeSet::new(),
            },
        };
        match gateway.record(netlink, BTreeSet::new()) {
            Ok(()) => Ok(Some(gateway)),
            Err(error) => {
                let _ = netlink.remove_link(device);
                Err(error)
            }
        }
    }

    /// Records the interfaces on which forwarding is enabled.
    pub(crate) fn record(
        &mut self,
        netlink: &mut Netlink,
        forwarding: BTreeSet<String>,
    ) -> Result<(), NetworkError> {
        self.metadata.forwarding = forwarding;
        netlink
            .set_alias(self.device, &self.metadata.to_alias())
            .map_err(NetworkError::at("mark the network's interface"))
    }

    /// Brings the interface up, with the gateway's addresses.
    pub(crate) fn set_up(
        &self,
        netlink: &mut Netlink,
        prefix: Option<Prefix>,
    ) -> Result<(), NetworkError> {
        let mut set_up = || -> Result<(), Errno> {
            netlink.set_up(self.device, LinkSettings::default())?;
            netlink.add_address(self.device, self.metadata.subnet.gateway().into())?;
            if let Some(prefix) = prefix {
                netlink.add_address(self.device, prefix.gateway().into())?;
            }
            Ok(())
        };
        set_up().map_err(NetworkError::at("give the gateway its address"))
    }
}

fn name(subnet: Subnet) -> String {
    format!("{GATEWAY_PREFIX}{}", subnet.tag())
}

/// The ranges that this machine uses, and what uses each.
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
    used.extend(all(&links).map(|gateway| {
        let by = name(gateway.metadata.subnet);
        (gateway.metadata.subnet.cidr(), by)
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
    fn an_alias_comes_back_as_written() {
        let mut metadata = AliasMetadata {
            instance: "a-b_1".to_owned(),
            subnet: Subnet::new("10.213.0.0/16".parse().unwrap()).unwrap(),
            forwarding: BTreeSet::new(),
        };
        assert_eq!(
            AliasMetadata::parse(&metadata.to_alias()).unwrap(),
            metadata
        );
        metadata.forwarding = ["eth0".to_owned(), "eth0/6".to_owned()].into();
        assert_eq!(
            AliasMetadata::parse(&metadata.to_alias()).unwrap(),
            metadata
        );
        for other in [
            "",
            "stacyvm",
            "stacyvm one",
            "docker one 10.213.0.0/16",
            "stacyvm one x",
        ] {
            assert_eq!(AliasMetadata::parse(other), None, "{other:?}");
        }
        let gateways = [
            Link {
                index: 4,
                name: "svmg0ad500".to_owned(),
                alias: metadata.to_alias(),
                mtu: 1500,
                group: 0,
            },
            Link {
                index: 5,
                name: "svm0ad500-2".to_owned(),
                alias: metadata.to_alias(),
                mtu: 1500,
                group: 0,
            },
        ];
        assert_eq!(all(&gateways).count(), 1);
        assert_eq!(find(&gateways, "a-b_1").unwrap().device, 4);
        assert!(find(&gateways, "other").is_none());
    }

    #[test]
    fn own_addresses_are_read_from_the_kernels_table() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.5.0.1\n        /32 host LOCAL\n     |-- 10.5.0.255\n        /32 link BROADCAST\n";
        let found: Vec<_> = local_addresses(text).collect();
        assert_eq!(found, ["10.5.0.1".parse::<IpAddr>().unwrap()]);
    }
}
