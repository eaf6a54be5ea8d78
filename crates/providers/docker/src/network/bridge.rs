//! The bridge network in the engine: the request for it, and what the engine reports of it.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect};
use stacyvm_types::Cidr;

use crate::engine::EngineError;
use crate::names::{EngineNames, INSTANCE_LABEL};

/// The option with the name of the bridge's interface on the host.
const NAME_OPTION: &str = "com.docker.network.bridge.name";
/// How many random ranges are tried where the engine has none.
const MAX_TRIES: usize = 16;

/// The bridge of this server's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bridge {
    /// The name of the interface on the engine's host.
    pub(super) interface: String,
    /// Its IPv4 range.
    pub(super) subnet: Cidr,
}

impl Bridge {
    /// Reads the engine's description; none for a network that is not this server's.
    pub(super) fn read(found: NetworkInspect, names: &EngineNames) -> Option<Self> {
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

/// The request for a new network; without a range the engine chooses one.
pub(super) fn request(names: &EngineNames, range: Option<Cidr>) -> NetworkCreateRequest {
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
            option(NAME_OPTION, interface_name()),
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

/// A random name for the interface: an interface of this name in the server's own network namespace
/// is this very bridge. Its prefix is that of all interfaces of sandboxes, which the rules close to
/// sandboxes.
fn interface_name() -> String {
    format!("svmd{:010x}", random() & 0xff_ffff_ffff)
}

fn random() -> u64 {
    // Every state has random keys.
    RandomState::new().hash_one(0)
}

/// The ranges to try one after the other, each large enough for the 1,023 ports of a bridge. None
/// leaves the choice to the engine.
pub(super) fn ranges(wanted: Option<Cidr>) -> impl Iterator<Item = Option<Cidr>> {
    let tried = (0..MAX_TRIES).filter_map(|_| {
        let number = random();
        let (second, third) = (200 + number % 56, (number >> 8) % 64 * 4);
        format!("10.{second}.{third}.0/22").parse().ok().map(Some)
    });
    let given = wanted.is_some();
    std::iter::once(wanted).chain(tried.filter(move |_| !given))
}

/// Whether the engine has refused a network because its range is not free.
pub(super) fn is_range_taken(error: &EngineError) -> bool {
    error.refusal().is_some_and(|message| {
        ["non-overlapping", "verlaps with", "address space"]
            .iter()
            .any(|part| message.contains(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The engine's description of a network that was requested like this.
    fn described(request: NetworkCreateRequest) -> NetworkInspect {
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
        let names = EngineNames::new("one");
        let range: Cidr = "10.1.0.0/22".parse().unwrap();
        let asked = request(&names, Some(range));
        let interface = asked.options.as_ref().unwrap()[NAME_OPTION].clone();
        assert!(interface.len() <= 15 && interface.starts_with("svmd"));
        let read = Bridge::read(described(asked.clone()), &names);
        assert_eq!(
            read,
            Some(Bridge {
                interface,
                subnet: range
            })
        );
        assert_eq!(
            Bridge::read(described(asked), &EngineNames::new("two")),
            None
        );
        let unnamed = NetworkCreateRequest {
            options: None,
            ..request(&names, Some(range))
        };
        assert_eq!(Bridge::read(described(unnamed), &names), None);
    }

    #[test]
    fn two_networks_have_two_interfaces() {
        assert_ne!(interface_name(), interface_name());
    }

    #[test]
    fn a_wanted_range_is_the_only_one_and_otherwise_the_engine_comes_first() {
        let wanted: Cidr = "10.9.0.0/24".parse().unwrap();
        assert_eq!(ranges(Some(wanted)).collect::<Vec<_>>(), [Some(wanted)]);
        let all: Vec<_> = ranges(None).collect();
        assert_eq!((all.len(), all[0]), (MAX_TRIES + 1, None));
        assert!(all[1..].iter().all(Option::is_some));
    }
}
