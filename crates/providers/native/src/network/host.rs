//! Changes to the host's network for sandboxes: forwarding, firewall rules, interfaces.

use std::collections::BTreeSet;

use rustix::io::Errno;
use stacyvm_sys::caps::{self, Set};
use stacyvm_sys::namespaces;
use stacyvm_sys::netlink::Netlink;
use stacyvm_types::SandboxId;

use super::addresses::Numbers;
use super::egress::EgressSupervisor;
use super::error::NetworkError;
use super::gateway::{self, GatewayInterface};
use super::layout::{DEFAULT_MTU, INTERFACE_PREFIX, NetworkLayout};
use super::lease::Lease;
use super::rules::{self, Rules};
use super::settings::NetworkSettings;
use super::uplinks::{self, Ipv6Forwarding, Uplinks};

/// The host's part of the network; one thread at a time changes it.
#[derive(Debug)]
pub(super) struct HostNetwork {
    pub(super) netlink: Netlink,
    pub(super) gateway: GatewayInterface,
    pub(super) ipv6_forwarding: Ipv6Forwarding,
    pub(super) conflicts: Vec<String>,
    /// True once the network is removed: nothing may be loaded again.
    pub(super) closed: bool,
}

impl HostNetwork {
    /// Enables forwarding where it is needed; answers whether the set of interfaces has changed.
    pub(super) fn enable_forwarding(&mut self, uplinks: &Uplinks) -> Result<bool, NetworkError> {
        const STEP: &str = "let packets pass";
        let links = self.netlink.links().map_err(NetworkError::at(STEP))?;
        let before: BTreeSet<_> = gateway::all(&links)
            .flat_map(|gateway| gateway.metadata.forwarding)
            .collect();
        let interfaces = uplinks.needed_forwarding(&before, self.ipv6_forwarding);
        let changed = interfaces != self.gateway.metadata.forwarding;
        if changed {
            // Recorded first, so that after a crash in between the next server can disable it again.
            self.gateway.record(&mut self.netlink, interfaces.clone())?;
        }
        uplinks::enable_forwarding(&interfaces).map_err(|error| {
            NetworkError::at(STEP)(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })?;
        Ok(changed)
    }

    /// Loads the rules in place of those before.
    pub(super) fn load_rules(
        &self,
        layout: &NetworkLayout,
        settings: &NetworkSettings,
        egress: Option<&EgressSupervisor>,
    ) -> Result<(), NetworkError> {
        if self.closed {
            return Ok(());
        }
        let endpoints = egress.and_then(EgressSupervisor::endpoints);
        let rules = Rules {
            layout,
            allow_host_ports: &settings.allow_host_ports,
            allow_cidrs: &settings.allow_cidrs,
            deny_cidrs: &settings.deny_cidrs,
            forwarding: &self.gateway.metadata.forwarding,
            egress: endpoints.as_ref(),
        };
        Ok(stacyvm_firewall::apply(&rules.text())?)
    }

    /// Removes veth pairs that belong to no sandbox, and answers which numbers are taken.
    pub(super) fn reconcile(
        &mut self,
        layout: &NetworkLayout,
        leases: &[(SandboxId, Lease)],
    ) -> Result<Numbers, NetworkError> {
        const STEP: &str = "look at the sandboxes' veth pairs";
        let mut seed = [0; 4];
        // Without randomness any number will do.
        let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        let mut numbers = Numbers::new(layout.subnet, u32::from_ne_bytes(seed));
        let leases: Vec<_> = leases.iter().map(|(_, lease)| lease).collect();
        let is_covered = |lease: &Lease| {
            layout.subnet.address(lease.number) == lease.address
                && layout.interface(lease.number) == lease.interface
        };
        let known: BTreeSet<_> = leases
            .iter()
            .filter(|lease| is_covered(lease))
            .map(|lease| lease.interface.as_str())
            .collect();
        let strays: BTreeSet<_> = leases
            .iter()
            .filter(|lease| !is_covered(lease))
            .map(|lease| lease.interface.as_str())
            .collect();
        let prefix = layout.interface_prefix();
        for link in self.netlink.links().map_err(NetworkError::at(STEP))? {
            let stray =
                strays.contains(link.name.as_str()) && link.name.starts_with(INTERFACE_PREFIX);
            let abandoned = link.name.starts_with(&prefix) && !known.contains(link.name.as_str());
            if stray {
                tracing::warn!(interface = %link.name, "a sandbox has an address that no rule covers and is cut off");
            }
            if stray || abandoned {
                self.netlink
                    .remove_link(link.index)
                    .map_err(NetworkError::at(STEP))?;
            }
        }
        for lease in leases.iter().filter(|lease| is_covered(lease)) {
            numbers.mark(lease.number);
        }
        Ok(numbers)
    }
}

/// Removes an instance's network from the machine. What fails is tried again at the next start.
pub(super) fn remove(netlink: &mut Netlink, gateway: &GatewayInterface) {
    let layout = NetworkLayout {
        subnet: gateway.metadata.subnet,
        prefix: None,
        mtu: DEFAULT_MTU,
        force_ipv6: false,
    };
    // The gateway interface goes last: while it is there, the next start sees a crash in here.
    if let Err(error) = stacyvm_firewall::apply(&rules::removal(&layout)) {
        tracing::warn!(%error, "the network's rules could not be removed");
        return;
    }
    let mut removed = || -> Result<(), Errno> {
        let links = netlink.links()?;
        if !gateway::all(&links).any(|other| other.device != gateway.device) {
            uplinks::disable_forwarding(&gateway.metadata.forwarding);
        }
        let restricted = layout.group(true);
        if links.iter().any(|link| link.group == restricted) {
            netlink.remove_group(restricted)?;
        }
        // In one call with the others: each removal waits for every processor, and one wait is enough.
        netlink.set_group(gateway.device, layout.group(false))?;
        netlink.remove_group(layout.group(false))
    };
    if let Err(error) = removed() {
        tracing::warn!(%error, "the network's interfaces could not be removed");
    }
}

/// Whether this process may change the host's network, and launchers may use what it makes.
pub(super) fn is_privileged() -> bool {
    let needed = Set::NET_ADMIN | Set::SYS_ADMIN;
    namespaces::has_every_id() && caps::effective().is_ok_and(|held| held.contains(needed))
}

/// The degradation of a host with IPv6 whose sandboxes have none.
pub(super) const NO_IPV6: &str = "sandboxes have no IPv6: this kernel passes it on for the whole machine or \
     not at all; use Linux 6.17 or later, or run sysctl -w net.ipv6.conf.all.accept_ra=2 \
     net.ipv6.conf.all.forwarding=1";
