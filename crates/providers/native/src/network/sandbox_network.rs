//! The network of one instance's sandboxes, from its set-up to its end.
//!
//! Owns the order of the steps and the lock over what is done on the host; the parts are in the
//! files beside this one.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use stacyvm_egress::Program;
use stacyvm_firewall::Guard;
use stacyvm_launcher::control::NetworkFiles;
use stacyvm_provider::{Egress, Notices};
use stacyvm_sys::netlink::Netlink;
use stacyvm_types::SandboxId;

use super::addresses::Prefix;
use super::egress::EgressSupervisor;
use super::error::NetworkError;
use super::firewall_conflicts;
use super::gateway::{self, GatewayInterface};
use super::host::{self, HostNetwork, NO_IPV6};
use super::layout::{DEFAULT_MTU, MIN_MTU, NetworkLayout};
use super::lease::Lease;
use super::pool::NetworkPool;
use super::settings::{NetworkChoice, NetworkSettings};
use super::uplinks::{self, Ipv6Forwarding, Uplinks};

/// The network of a sandbox that is being made.
#[derive(Debug)]
pub(crate) struct AllocatedNetwork {
    pub(crate) lease: Lease,
    /// The index of the host's end of its veth pair.
    pub(crate) device: u32,
    /// The kernel removes the network when this is closed and no process is in it.
    pub(crate) namespace: OwnedFd,
}

/// The network of one instance's sandboxes.
#[derive(Debug)]
pub(crate) struct SandboxNetwork {
    layout: NetworkLayout,
    settings: NetworkSettings,
    pool: NetworkPool,
    /// None without a program that resolves names.
    egress: Option<EgressSupervisor>,
    rules_guard: Mutex<Option<Guard>>,
    host: Mutex<HostNetwork>,
}

impl SandboxNetwork {
    /// Sets the network up, or takes over the one of an earlier server: `leases` are those of living
    /// sandboxes. None when none is wanted and none is in use. Blocks for some tens of
    /// milliseconds; must run inside the async runtime.
    pub(crate) fn open(
        instance: &str,
        settings: &NetworkSettings,
        leases: &[(SandboxId, Lease)],
        notices: &Arc<Notices>,
    ) -> Result<Option<Self>, NetworkError> {
        let unwanted = settings.choice == NetworkChoice::None && leases.is_empty();
        if !host::is_privileged() {
            return if unwanted {
                Ok(None)
            } else {
                Err(NetworkError::NotRoot)
            };
        }
        const STEP: &str = "open the host's network";
        let mut netlink = Netlink::open().map_err(NetworkError::at(STEP))?;
        let links = netlink.links().map_err(NetworkError::at(STEP))?;
        let mut found = gateway::find(&links, instance);
        if leases.is_empty()
            && let Some(gateway) = found.take_if(|gateway| {
                unwanted
                    || settings
                        .subnet
                        .is_some_and(|wanted| wanted != gateway.metadata.subnet.cidr())
            })
        {
            host::remove(&mut netlink, &gateway);
        }
        if unwanted {
            return Ok(None);
        }
        let gateway = match found {
            Some(gateway) => {
                warn_of_kept_range(&gateway, settings);
                gateway
            }
            None => GatewayInterface::claim(&mut netlink, instance, settings.subnet)?,
        };
        let device = gateway.device;
        let opened = Self::set_up(netlink, gateway, instance, settings, leases, notices);
        if opened.is_err()
            && leases.is_empty()
            && let Ok(mut netlink) = Netlink::open()
            && let Ok(links) = netlink.links()
            && let Some(gateway) =
                gateway::find(&links, instance).filter(|one| one.device == device)
        {
            host::remove(&mut netlink, &gateway);
        }
        opened.map(Some)
    }

    fn set_up(
        mut netlink: Netlink,
        gateway: GatewayInterface,
        instance: &str,
        settings: &NetworkSettings,
        leases: &[(SandboxId, Lease)],
        notices: &Arc<Notices>,
    ) -> Result<Self, NetworkError> {
        let uplinks = Uplinks::find(&mut netlink, &settings.allow_cidrs)
            .map_err(NetworkError::at("look at the host's routes"))?;
        let ipv6_forwarding = uplinks::ipv6_forwarding();
        let has_ipv6 = !uplinks.ipv6.is_empty() && ipv6_forwarding != Ipv6Forwarding::Unavailable;
        let layout = NetworkLayout {
            subnet: gateway.metadata.subnet,
            prefix: has_ipv6.then(|| Prefix::of(instance)),
            mtu: uplinks
                .mtu
                .unwrap_or(DEFAULT_MTU)
                .clamp(MIN_MTU, DEFAULT_MTU),
            force_ipv6: ipv6_forwarding == Ipv6Forwarding::ByInterface,
        };
        gateway.set_up(&mut netlink, layout.prefix)?;
        let mut host = HostNetwork {
            netlink,
            gateway,
            ipv6_forwarding,
            conflicts: Vec::new(),
            closed: false,
        };
        host.enable_forwarding(&uplinks)?;
        let conflicts = std::thread::spawn(firewall_conflicts::find);
        let egress = start_egress(&layout, settings, leases, notices)?;
        host.load_rules(&layout, settings, egress.as_ref())?;
        let numbers = host.reconcile(&layout, leases)?;
        host.conflicts = conflicts.join().unwrap_or_default();
        if !uplinks.ipv6.is_empty() && ipv6_forwarding == Ipv6Forwarding::Unavailable {
            host.conflicts.push(NO_IPV6.to_owned());
        }
        let pool = NetworkPool::start(layout.clone(), numbers, settings.ready)?;
        Ok(Self {
            layout,
            settings: settings.clone(),
            pool,
            egress,
            rules_guard: Mutex::default(),
            host: Mutex::new(host),
        })
    }

    /// Whether new sandboxes may have the network.
    pub(crate) fn is_offered(&self) -> bool {
        self.settings.choice != NetworkChoice::None
    }

    /// What keeps packets from passing on this machine, one sentence each.
    pub(crate) fn degradations(&self) -> Vec<String> {
        self.host().conflicts.clone()
    }

    /// Allocates the network of a sandbox that may reach `egress`.
    pub(crate) async fn allocate(&self, egress: &Egress) -> Result<AllocatedNetwork, NetworkError> {
        let prepared = self.pool.take().await?;
        let mut lease = Lease {
            number: prepared.number,
            interface: prepared.interface,
            address: self.layout.subnet.address(prepared.number),
            address6: self
                .layout
                .prefix
                .map(|prefix| prefix.address(prepared.number)),
            domains: None,
        };
        lease.set_egress(egress);
        Ok(AllocatedNetwork {
            lease,
            device: prepared.device,
            namespace: prepared.namespace,
        })
    }

    /// Puts the host's end of a veth pair into the interface group of `egress`, to which the rules
    /// apply. Blocks for a moment.
    pub(crate) fn set_group(&self, device: u32, egress: &Egress) -> Result<(), NetworkError> {
        let group = self.layout.group(matches!(egress, Egress::Domains(_)));
        self.host()
            .netlink
            .set_group(device, group)
            .map_err(NetworkError::at("change what a sandbox reaches"))
    }

    /// Like `set_group`, by the lease of a sandbox that lives. Blocks for a moment.
    pub(crate) fn set_group_of(&self, lease: &Lease) -> Result<(), NetworkError> {
        let device = self
            .host()
            .netlink
            .link(&lease.interface)
            .map_err(NetworkError::at("find a sandbox's veth pair"))?
            .index;
        self.set_group(device, &lease.egress())
    }

    /// Frees the addresses of a sandbox whose processes have all ended. The kernel removes its veth
    /// pair soon after, many at a time; to do it here would cost each destroy ten milliseconds.
    pub(crate) fn release(&self, lease: &Lease) {
        self.pool.free(lease.number);
    }

    /// The content of the files inside that describe the network.
    pub(crate) fn files(&self, lease: &Lease, name: &str) -> NetworkFiles {
        let mut hosts =
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
        for address in lease.addresses() {
            let _ = writeln!(hosts, "{address} {name}");
        }
        NetworkFiles {
            resolv_conf: format!("nameserver {}\n", self.layout.subnet.gateway()),
            hosts,
        }
    }

    /// Follows changes of the host's routes and name servers. Blocks for a moment.
    pub(crate) fn follow_host(&self) -> Result<(), NetworkError> {
        let mut host = self.host();
        if host.closed {
            return Ok(());
        }
        let uplinks = Uplinks::find(&mut host.netlink, &self.settings.allow_cidrs)
            .map_err(NetworkError::at("look at the host's routes"))?;
        if host.enable_forwarding(&uplinks)? {
            host.load_rules(&self.layout, &self.settings, self.egress.as_ref())?;
        }
        self.remove_abandoned(&mut host)?;
        drop(host);
        if let Some(egress) = &self.egress {
            egress.follow_upstreams();
        }
        Ok(())
    }

    /// Removes veth pairs whose sandboxes are gone, should something have kept them.
    fn remove_abandoned(&self, host: &mut HostNetwork) -> Result<(), NetworkError> {
        const STEP: &str = "look at the sandboxes' veth pairs";
        let links = host.netlink.links().map_err(NetworkError::at(STEP))?;
        for link in links {
            let number = self.layout.number_of(&link.name);
            // Looked up after the links were listed: a link whose number is free by now is left over.
            if number.is_some_and(|number| !self.pool.is_taken(number)) {
                host.netlink
                    .remove_link(link.index)
                    .map_err(NetworkError::at(STEP))?;
            }
        }
        Ok(())
    }

    /// Loads the rules again whenever another program removes them.
    pub(super) fn watch_rules(self: &Arc<Self>) -> Result<(), NetworkError> {
        let network = Arc::downgrade(self);
        let removed = move || {
            let Some(network) = network.upgrade() else {
                return;
            };
            let host = network.host();
            // This process itself removes them to load others.
            if host.closed
                || stacyvm_firewall::is_loaded(
                    "inet",
                    &network.layout.table(),
                    &["jump outwards", "jump to_host"],
                )
            {
                return;
            }
            tracing::warn!("the network's rules were removed and are loaded again");
            let loaded =
                host.load_rules(&network.layout, &network.settings, network.egress.as_ref());
            if let Err(error) = loaded {
                tracing::error!(%error, "sandboxes have a network without rules");
            }
        };
        let guard = Guard::start(self.layout.table(), removed)
            .map_err(NetworkError::at("watch over the network's rules"))?;
        *self.rules_guard.lock() = Some(guard);
        Ok(())
    }

    /// Whether a sandbox can be limited to servers on a list of names.
    pub(crate) fn limits_by_name(&self) -> bool {
        self.egress.is_some()
    }

    /// Lets a sandbox resolve names and reach the servers of its lease.
    pub(crate) async fn register(&self, id: &SandboxId, lease: &Lease) -> Result<(), NetworkError> {
        match &self.egress {
            Some(egress) => egress.register(id, lease).await,
            None => Ok(()),
        }
    }

    /// Undoes `register`.
    pub(crate) async fn unregister(&self, id: &SandboxId) {
        if let Some(egress) = &self.egress {
            egress.unregister(id).await;
        }
    }

    /// Keeps the program that resolves names running. Never returns.
    pub(crate) async fn supervise_egress(self: Arc<Self>, notices: Arc<Notices>) {
        let Some(egress) = &self.egress else { return };
        loop {
            egress.restart_when_ended(&notices).await;
            let network = self.clone();
            let loaded = tokio::task::spawn_blocking(move || {
                let host = network.host();
                host.load_rules(&network.layout, &network.settings, network.egress.as_ref())
            });
            if let Ok(Err(error)) = loaded.await {
                tracing::error!(%error, "the rules do not lead to the program that resolves names");
            }
        }
    }

    /// Ends this process's part of the network; removes it from the machine unless it is still `used`.
    /// Blocks for some tens of milliseconds.
    pub(crate) fn close(&self, used: bool) {
        self.pool.stop();
        let guard = self.rules_guard.lock().take();
        if let Some(guard) = guard {
            guard.stop();
        }
        if let Some(egress) = &self.egress {
            egress.stop();
        }
        let mut host = self.host();
        host.closed = true;
        if !used {
            let HostNetwork {
                netlink, gateway, ..
            } = &mut *host;
            host::remove(netlink, gateway);
        }
    }

    fn host(&self) -> MutexGuard<'_, HostNetwork> {
        self.host.lock()
    }
}

fn warn_of_kept_range(gateway: &GatewayInterface, settings: &NetworkSettings) {
    let kept = gateway.metadata.subnet.cidr();
    if settings.subnet.is_some_and(|wanted| wanted != kept) {
        tracing::warn!(%kept, "sandboxes live in the range of before, so it stays until the last has ended");
    }
}

/// Starts the program that resolves names, where one is configured. Blocks.
fn start_egress(
    layout: &NetworkLayout,
    settings: &NetworkSettings,
    leases: &[(SandboxId, Lease)],
    notices: &Arc<Notices>,
) -> Result<Option<EgressSupervisor>, NetworkError> {
    let Some((path, arguments)) = &settings.egress_program else {
        return Ok(None);
    };
    let program = Program {
        path: path.clone(),
        arguments: arguments.iter().map(Into::into).collect(),
    };
    let starting = EgressSupervisor::start(
        program,
        layout,
        &settings.allow_cidrs,
        &settings.name_servers,
        leases,
        notices,
    );
    tokio::runtime::Handle::current()
        .block_on(starting)
        .map(Some)
}
