//! The engine's side of the network: what is asked for, and what is read back.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect};
use stacyvm_types::Cidr;

use crate::engine::EngineError;
use crate::names::{INSTANCE_LABEL, Names};

/// The option with the name of the host's interface.
const NAME_OPTION: &str = "com.docker.network.bridge.name";
/// How many ranges of ours are tried where the engine has none.
const TRIES: usize = 16;

/// A network of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bridge {
    /// The interface on the engine's host.
    pub(super) interface: String,
    /// Its range of IPv4.
    pub(super) subnet: Cidr,
}

impl Bridge {
    /// Reads what the engine says; none for a network that is not this server's.
    pub(super) fn read(found: NetworkInspect, names: &Names) -> Option<Self> {
        let labels = found.labels.unwrap_or_default();
        if labels.get(INSTANCE_LABEL).map(String::as_str) != Some(names.tag()) {
            return None;
        }
        let subnets = found.ipam?.config.unwrap_or_default().into_iter();
        let mut subnets = subnets.filter_map(|config| config.subnet?.parse::<Cidr>().ok());
        Some(Self {
            interface: found.options?.remove(NAME_OPTION)?,
            subnet: subnets.find(|range| range.first().is_ipv4())?,
        })
    }
}

/// A network that no server has yet; a range of none is the engine's choice.
pub(super) fn request(names: &Names, range: Option<Cidr>) -> NetworkCreateRequest {
    let option = |name: &str, value: String| (name.to_owned(), value);
    NetworkCreateRequest {
        name: names.network(),
        driver: Some("bridge".to_owned()),
        internal: Some(false),
        attachable: Some(false),
        enable_ipv6: Some(false),
        ipam: range.map(|range| Ipam {
            config: Some(vec![IpamConfig {
                subnet: Some(range.to_string()),
                ..IpamConfig::default()
            }]),
            ..Ipam::default()
        }),
        options: Some(HashMap::from([
            option(NAME_OPTION, interface()),
            option("com.docker.network.bridge.enable_icc", "false".to_owned()),
            option(
                "com.docker.network.bridge.enable_ip_masquerade",
                "true".to_owned(),
            ),
        ])),
        labels: Some(names.labels(None)),
        ..NetworkCreateRequest::default()
    }
}

/// A name that no interface anywhere has: seen in our own network, it is this very bridge. The
/// beginning is that of all interfaces of sandboxes, which none of them reaches.
fn interface() -> String {
    format!("svmd{:010x}", drawn() & 0xff_ffff_ffff)
}

fn drawn() -> u64 {
    // The keys of each are random.
    RandomState::new().hash_one(0)
}

/// The ranges to try one after the other, each for as many containers as a bridge can have.
pub(super) fn ranges(wanted: Option<Cidr>) -> impl Iterator<Item = Option<Cidr>> {
    let ours = (0..TRIES).filter_map(|_| {
        let number = drawn();
        let (second, third) = (200 + number % 56, (number >> 8) % 64 * 4);
        format!("10.{second}.{third}.0/22").parse().ok().map(Some)
    });
    let given = wanted.is_some();
    std::iter::once(wanted).chain(ours.filter(move |_| !given))
}

/// Whether the engine refuses for want of a free range.
pub(super) fn is_about_ranges(error: &EngineError) -> bool {
    error.refusal().is_some_and(|words| {
        ["non-overlapping", "verlaps with", "address space"]
            .iter()
            .any(|part| words.contains(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the engine says of a network that was asked for like this.
    fn told(request: NetworkCreateRequest) -> NetworkInspect {
        NetworkInspect {
            name: Some(request.name),
            labels: request.labels,
            options: request.options,
            ipam: request.ipam,
            ..NetworkInspect::default()
        }
    }

    #[test]
    fn what_was_asked_for_is_read_back_and_nothing_of_others() {
        let names = Names::new("one");
        let range: Cidr = "10.1.0.0/22".parse().unwrap();
        let asked = request(&names, Some(range));
        let interface = asked.options.as_ref().unwrap()[NAME_OPTION].clone();
        assert!(interface.len() <= 15 && interface.starts_with("svmd"));
        let read = Bridge::read(told(asked.clone()), &names);
        assert_eq!(
            read,
            Some(Bridge {
                interface,
                subnet: range
            })
        );
        assert_eq!(Bridge::read(told(asked), &Names::new("two")), None);
        let unnamed = NetworkCreateRequest {
            options: None,
            ..request(&names, Some(range))
        };
        assert_eq!(Bridge::read(told(unnamed), &names), None);
    }

    #[test]
    fn two_networks_have_two_interfaces() {
        assert_ne!(interface(), interface());
    }

    #[test]
    fn a_wanted_range_is_the_only_one_and_otherwise_the_engine_comes_first() {
        let wanted: Cidr = "10.9.0.0/24".parse().unwrap();
        assert_eq!(ranges(Some(wanted)).collect::<Vec<_>>(), [Some(wanted)]);
        let all: Vec<_> = ranges(None).collect();
        assert_eq!((all.len(), all[0]), (TRIES + 1, None));
        assert!(all[1..].iter().all(Option::is_some));
    }
}
