//! The network of a sandbox, as its record has it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use stacyvm_provider::{Egress, NetworkMode};

/// The network of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// Its number in the range of its instance.
    pub(crate) number: u32,
    /// The name of the host's end of its veth pair.
    pub(crate) interface: String,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// Its IPv6 address, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address6: Option<Ipv6Addr>,
    /// The names of servers that it may reach; absent means every server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) domains: Option<Vec<String>>,
}

impl Lease {
    /// Its addresses.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let mut all = vec![self.address.into()];
        all.extend(self.address6.map(IpAddr::from));
        all
    }

    /// What it may reach. A name that cannot be read, which only a damaged file has, is left out and so not reachable.
    pub(crate) fn egress(&self) -> Egress {
        match &self.domains {
            None => Egress::Open,
            Some(names) => {
                Egress::Domains(names.iter().filter_map(|name| name.parse().ok()).collect())
            }
        }
    }

    /// Records what it may reach.
    pub(crate) fn set_egress(&mut self, egress: &Egress) {
        self.domains = match egress {
            Egress::Open => None,
            Egress::Domains(names) => Some(names.iter().map(ToString::to_string).collect()),
        };
    }

    /// Its network as callers of the provider name it.
    pub(crate) fn mode(&self) -> NetworkMode {
        NetworkMode::Bridge(self.egress())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_comes_back_as_written() {
        let mut lease = Lease {
            number: 7,
            interface: "svm0ad500-7".to_owned(),
            address: [10, 213, 0, 7].into(),
            address6: None,
            domains: None,
        };
        for egress in [
            Egress::Open,
            Egress::Domains(Vec::new()),
            Egress::Domains(vec!["*.example.org".parse().unwrap()]),
        ] {
            lease.set_egress(&egress);
            let text = serde_json::to_string(&lease).unwrap();
            let back: Lease = serde_json::from_str(&text).unwrap();
            assert_eq!(back, lease);
            assert_eq!(back.mode(), NetworkMode::Bridge(egress));
        }
    }
}
