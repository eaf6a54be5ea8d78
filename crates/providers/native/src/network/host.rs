//! What is done to the host for a network: its ways out, its rules, its interfaces.

use std::collections::BTreeSet;

use rustix::io::Errno;
use stacyvm_sys::caps::{self, Set};
use stacyvm_sys::namespaces;
use stacyvm_sys::netlink::Netlink;
use stacyvm_types::SandboxId;

use super::addresses::Numbers;
use super::anchor::{self, Anchor, OURS};
use super::names::Names;
use super::rules::{self, Rules};
use super::uplinks::{self, Passing, Uplinks};
use super::{Lease, MTU, NetworkError, NetworkSettings, Site};

/// What is done on the host, by one at a time.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) netlink: Netlink,
    pub(super) anchor: Anchor,
    pub(super) passing: Passing,
    pub(super) obstacles: Vec<String>,
    /// What comes late must not bring anything back.
    pub(super) closed: bool,
}

impl Host {
    /// Switches forwarding on where it has to be; whether that differs from what it was.
    pub(super) fn open_uplinks(&mut self, uplinks: &Uplinks) -> Result<bool, NetworkError> {
        const STEP: &str = "let packets pass";
        let links = self.netlink.links().map_err(NetworkError::at(STEP))?;
        let before: BTreeSet<_> = anchor::all(&links)
            .flat_map(|anchor| anchor.note.opened)
            .collect();
        let marks = uplinks.plan(&before, self.passing);
        let changed = marks != self.anchor.note.opened;
        if changed {
            // First the note, or a crash in between leaves a door open that nobody closes.
            self.anchor.record(&mut self.netlink, marks.clone())?;
        }
        uplinks::open(&marks).map_err(|error| {
            NetworkError::at(STEP)(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })?;
        Ok(changed)
    }

    /// Replaces the rules.
    pub(super) fn load(
        &self,
        site: &Site,
        settings: &NetworkSettings,
        names: Option<&Names>,
    ) -> Result<(), NetworkError> {
        if self.closed {
            return Ok(());
        }
        let place = names.and_then(Names::place);
        let rules = Rules {
            site,
            allow_host_ports: &settings.allow_host_ports,
            allow_cidrs: &settings.allow_cidrs,
            deny_cidrs: &settings.deny_cidrs,
            opened: &self.anchor.note.opened,
            egress: place.as_ref(),
        };
        Ok(stacyvm_firewall::apply(&rules.text())?)
    }

    /// Removes cables that belong to no box, and answers which numbers are taken.
    pub(super) fn reconcile(
        &mut self,
        site: &Site,
        leases: &[(SandboxId, Lease)],
    ) -> Result<Numbers, NetworkError> {
        const STEP: &str = "look at the sandboxes' cables";
        let mut seed = [0; 4];
        // Any number will do when there is no better one.
        let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        let mut numbers = Numbers::new(site.subnet, u32::from_ne_bytes(seed));
        let leases: Vec<_> = leases.iter().map(|(_, lease)| lease).collect();
        let ours = |lease: &Lease| {
            site.subnet.address(lease.number) == lease.address
                && site.interface(lease.number) == lease.interface
        };
        let known: BTreeSet<_> = leases
            .iter()
            .filter(|lease| ours(lease))
            .map(|lease| lease.interface.as_str())
            .collect();
        let strays: BTreeSet<_> = leases
            .iter()
            .filter(|lease| !ours(lease))
            .map(|lease| lease.interface.as_str())
            .collect();
        let prefix = site.interface_prefix();
        for link in self.netlink.links().map_err(NetworkError::at(STEP))? {
            let stray = strays.contains(link.name.as_str()) && link.name.starts_with(OURS);
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
        for lease in leases.iter().filter(|lease| ours(lease)) {
            numbers.mark(lease.number);
        }
        Ok(numbers)
    }
}

/// Removes an instance's network from the machine. What fails is tried again at the next start.
pub(super) fn remove(netlink: &mut Netlink, anchor: &Anchor) {
    let site = Site {
        subnet: anchor.note.subnet,
        prefix: None,
        mtu: MTU,
        force_ipv6: false,
    };
    // The anchor goes last: as long as it stands, a crash here is seen.
    if let Err(error) = stacyvm_firewall::apply(&rules::removal(&site)) {
        tracing::warn!(%error, "the network's rules could not be removed");
        return;
    }
    let removed = || -> Result<(), Errno> {
        let links = netlink.links()?;
        if !anchor::all(&links).any(|other| other.device != anchor.device) {
            uplinks::close(&anchor.note.opened);
        }
        let restricted = site.group(true);
        if links.iter().any(|link| link.group == restricted) {
            netlink.remove_group(restricted)?;
        }
        // With the others: each removal waits for every processor, and one wait is enough.
        netlink.set_group(anchor.device, site.group(false))?;
        netlink.remove_group(site.group(false))
    };
    let mut removed = removed;
    if let Err(error) = removed() {
        tracing::warn!(%error, "the network's interfaces could not be removed");
    }
}

/// Whether this process may change the host's network, and launchers may use what it makes.
pub(super) fn is_privileged() -> bool {
    let needed = Set::NET_ADMIN | Set::SYS_ADMIN;
    namespaces::has_every_id() && caps::effective().is_ok_and(|held| held.contains(needed))
}

/// Said where the host has IPv6 and sandboxes have not.
pub(super) const NO_IPV6: &str = "sandboxes have no IPv6: this kernel passes it on for the whole machine or \
     not at all; use Linux 6.17 or later, or run sysctl -w net.ipv6.conf.all.accept_ra=2 \
     net.ipv6.conf.all.forwarding=1";
