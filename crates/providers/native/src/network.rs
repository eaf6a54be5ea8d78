//! The network of sandboxes: whether there is one, its range and rules, and each sandbox's address.
//!
//! Each sandbox has a veth pair of its own and a route to its address at the host's end. There is
//! no bridge and nothing else that two sandboxes share, so the only traffic between them is what
//! the host forwards, which the rules refuse. What must hold while no server runs is in the kernel:
//! routes, rules, and the interface group of each veth pair. What must be known after a crash is in
//! the records of boxes and in the alias of the gateway interface (see `gateway`).

mod addresses;
mod builder;
mod egress;
mod error;
mod firewall_conflicts;
mod gateway;
mod host;
mod layout;
mod lease;
mod pool;
mod rules;
mod sandbox_network;
mod settings;
mod uplinks;

use std::sync::Arc;

use stacyvm_provider::Notices;
use stacyvm_types::SandboxId;

pub(crate) use error::NetworkError;
pub(crate) use lease::Lease;
pub(crate) use sandbox_network::{AllocatedNetwork, SandboxNetwork};
pub use settings::{NetworkChoice, NetworkSettings};

/// The network of the sandboxes of one provider, where there is one.
#[derive(Debug, Default)]
pub(crate) struct NetworkSupport {
    /// None when sandboxes have no network.
    network: Option<Arc<SandboxNetwork>>,
    /// Why there is none although one was wanted.
    unavailable: Option<String>,
}

impl NetworkSupport {
    /// Sets the network up as configured. Blocks for some tens of milliseconds.
    ///
    /// # Errors
    /// When there must be one and cannot be, or when living sandboxes depend on it.
    pub(crate) fn open(
        instance: &str,
        settings: &NetworkSettings,
        leases: &[(SandboxId, Lease)],
        notices: &Arc<Notices>,
    ) -> Result<Self, NetworkError> {
        match SandboxNetwork::open(instance, settings, leases, notices) {
            Ok(network) => {
                let network = network.map(Arc::new);
                if let Some(network) = &network {
                    network.watch_rules()?;
                }
                Ok(Self {
                    network,
                    unavailable: None,
                })
            }
            Err(error) if settings.choice == NetworkChoice::Auto && leases.is_empty() => Ok(Self {
                network: None,
                unavailable: Some(format!("sandboxes have no network: {error}")),
            }),
            Err(error) => Err(error),
        }
    }

    /// The network, even when new sandboxes get none and only older ones still use it.
    pub(crate) fn existing(&self) -> Option<&Arc<SandboxNetwork>> {
        self.network.as_ref()
    }

    /// The network that new sandboxes may have.
    pub(crate) fn offered(&self) -> Option<&Arc<SandboxNetwork>> {
        self.network.as_ref().filter(|network| network.is_offered())
    }

    /// Ends this process's part of the network and, unless it is still `used` by a sandbox, removes
    /// it from the machine. Blocks for some tens of milliseconds.
    pub(crate) fn close(&self, used: bool) {
        if let Some(network) = &self.network {
            network.close(used);
        }
    }

    /// What sandboxes lack of a network, one sentence each.
    pub(crate) fn degradations(&self) -> Vec<String> {
        let mut all: Vec<_> = self.unavailable.iter().cloned().collect();
        if let Some(network) = &self.network {
            all.extend(network.degradations());
        }
        all
    }
}
