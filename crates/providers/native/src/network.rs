//! The network of sandboxes: whether there is one, its range and rules, and who has which address.
//!
//! Each sandbox has a cable of its own to the host and a route to its address at the other end.
//! There is no bridge and nothing else that two sandboxes share, so there is nothing between them
//! to guard but the host's own passing on. What must hold while no server runs stands in the
//! kernel: routes, rules, and the group of each cable. What must be known after a crash stands in
//! the records of boxes and on the anchor (see `anchor`).

mod addresses;
mod anchor;
mod error;
mod host;
mod lease;
mod making;
mod names;
mod obstacles;
mod rules;
mod settings;
mod uplinks;

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stacyvm_egress::Program;
use stacyvm_firewall::Guard;
use stacyvm_launcher::control::NetworkFiles;
use stacyvm_provider::{Egress, Notices};
use stacyvm_sys::netlink::Netlink;
use stacyvm_types::SandboxId;

use addresses::{Prefix, Subnet};
use anchor::{Anchor, OURS};
pub(crate) use error::NetworkError;
use host::{Host, NO_IPV6, is_privileged, remove};
pub(crate) use lease::Lease;
use making::Maker;
use names::Names;
pub use settings::{NetworkChoice, NetworkSettings};
use uplinks::{Passing, Uplinks};

/// The usual size of a packet, bytes.
const MTU: u32 = 1500;
/// The smallest with which IPv6 works (RFC 8200, section 5).
const LEAST_MTU: u32 = 1280;

/// What does not change while a server runs.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    subnet: Subnet,
    /// None when sandboxes have no IPv6.
    prefix: Option<Prefix>,
    mtu: u32,
    /// IPv6 is passed on only where it is switched on by interface.
    force_ipv6: bool,
}

impl Site {
    /// The table of our rules.
    fn table(&self) -> String {
        format!("{}{}", stacyvm_firewall::TABLE_PREFIX, self.subnet.tag())
    }

    /// The group of the cables of sandboxes that reach outside only by name, or of all others.
    fn group(&self, restricted: bool) -> u32 {
        const OURS: u32 = 0x4000_0000;
        OURS | (self.subnet.number() << 1) | u32::from(restricted)
    }

    /// The number in the name of a cable of ours.
    fn number_of(&self, interface: &str) -> Option<u32> {
        let digits = interface.strip_prefix(&self.interface_prefix())?;
        u32::from_str_radix(digits, 16).ok()
    }

    /// The host's end of a sandbox's cable.
    fn interface(&self, number: u32) -> String {
        format!("{}{number:x}", self.interface_prefix())
    }

    fn interface_prefix(&self) -> String {
        format!("{OURS}{}-", self.subnet.tag())
    }

    /// Every such interface, as rules name it.
    fn wildcard(&self) -> String {
        format!("\"{}*\"", self.interface_prefix())
    }
}

/// A box's network, taken but not yet used.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) lease: Lease,
    /// The host's end of its cable.
    pub(crate) device: u32,
    /// Whoever holds this, or is in it, keeps it.
    pub(crate) namespace: OwnedFd,
}

/// What a provider has of networks.
#[derive(Debug, Default)]
pub(crate) struct Network {
    /// None when boxes have none.
    pub(crate) bridge: Option<Arc<Bridge>>,
    /// Why there is none although one was wanted.
    pub(crate) missing: Option<String>,
}

impl Network {
    /// Sets it up as configured. Blocks for some tens of milliseconds.
    ///
    /// # Errors
    /// When it must be there and cannot, or when boxes that live depend on it.
    pub(crate) fn open(
        instance: &str,
        settings: &NetworkSettings,
        leases: &[(SandboxId, Lease)],
        notices: &Arc<Notices>,
    ) -> Result<Self, NetworkError> {
        match Bridge::open(instance, settings, leases, notices) {
            Ok(bridge) => {
                let bridge = bridge.map(Arc::new);
                if let Some(bridge) = &bridge {
                    bridge.watch()?;
                }
                Ok(Self {
                    bridge,
                    missing: None,
                })
            }
            Err(error) if settings.choice == NetworkChoice::Auto && leases.is_empty() => Ok(Self {
                bridge: None,
                missing: Some(format!("sandboxes have no network: {error}")),
            }),
            Err(error) => Err(error),
        }
    }

    /// The network of new boxes.
    pub(crate) fn offered(&self) -> Option<&Arc<Bridge>> {
        self.bridge.as_ref().filter(|bridge| bridge.is_offered())
    }

    /// Ends what this process does for it, and removes it from the machine when no box `used` it any
    /// more. Blocks for some tens of milliseconds.
    pub(crate) fn close(&self, used: bool) {
        if let Some(bridge) = &self.bridge {
            bridge.close(used);
        }
    }

    /// What is not as it could be.
    pub(crate) fn degradations(&self) -> Vec<String> {
        let mut said: Vec<_> = self.missing.iter().cloned().collect();
        if let Some(bridge) = &self.bridge {
            said.extend(bridge.degradations());
        }
        said
    }
}

/// The network of one instance.
#[derive(Debug)]
pub(crate) struct Bridge {
    site: Site,
    settings: NetworkSettings,
    maker: Maker,
    /// None without a program for it.
    names: Option<Names>,
    guard: Mutex<Option<Guard>>,
    host: Mutex<Host>,
}

impl Bridge {
    /// Sets the network up, or takes over what an earlier server left: `leases` are those of boxes
    /// that live. None when none is wanted and none is in use. Blocks for some tens of
    /// milliseconds; must run inside the async runtime.
    pub(crate) fn open(
        instance: &str,
        settings: &NetworkSettings,
        leases: &[(SandboxId, Lease)],
        notices: &Arc<Notices>,
    ) -> Result<Option<Self>, NetworkError> {
        let unwanted = settings.choice == NetworkChoice::None && leases.is_empty();
        if !is_privileged() {
            return if unwanted {
                Ok(None)
            } else {
                Err(NetworkError::NotRoot)
            };
        }
        const STEP: &str = "open the host's network";
        let mut netlink = Netlink::open().map_err(NetworkError::at(STEP))?;
        let links = netlink.links().map_err(NetworkError::at(STEP))?;
        let mut left = anchor::find(&links, instance);
        if leases.is_empty()
            && let Some(anchor) = left.take_if(|anchor| {
                unwanted
                    || settings
                        .subnet
                        .is_some_and(|wanted| wanted != anchor.note.subnet.cidr())
            })
        {
            remove(&mut netlink, &anchor);
        }
        if unwanted {
            return Ok(None);
        }
        let anchor = match left {
            Some(anchor) => {
                let kept = anchor.note.subnet.cidr();
                if settings.subnet.is_some_and(|wanted| wanted != kept) {
                    tracing::warn!(%kept, "sandboxes live in the range of before, so it stays until the last has ended");
                }
                anchor
            }
            None => Anchor::take(&mut netlink, instance, settings.subnet)?,
        };
        let device = anchor.device;
        let opened = Self::on(netlink, anchor, instance, settings, leases, notices);
        if opened.is_err()
            && leases.is_empty()
            && let Ok(mut netlink) = Netlink::open()
            && let Ok(links) = netlink.links()
            && let Some(anchor) = anchor::find(&links, instance).filter(|one| one.device == device)
        {
            remove(&mut netlink, &anchor);
        }
        opened.map(Some)
    }

    fn on(
        mut netlink: Netlink,
        anchor: Anchor,
        instance: &str,
        settings: &NetworkSettings,
        leases: &[(SandboxId, Lease)],
        notices: &Arc<Notices>,
    ) -> Result<Self, NetworkError> {
        let uplinks = Uplinks::find(&mut netlink, &settings.allow_cidrs)
            .map_err(NetworkError::at("look at the host's routes"))?;
        let passing = uplinks::ipv6_passing();
        let has_ipv6 = !uplinks.ipv6.is_empty() && passing != Passing::NotByUs;
        let site = Site {
            subnet: anchor.note.subnet,
            prefix: has_ipv6.then(|| Prefix::of(instance)),
            mtu: uplinks.mtu.unwrap_or(MTU).clamp(LEAST_MTU, MTU),
            force_ipv6: passing == Passing::ByInterface,
        };
        anchor.raise(&mut netlink, site.prefix)?;
        let mut host = Host {
            netlink,
            anchor,
            passing,
            obstacles: Vec::new(),
            closed: false,
        };
        host.open_uplinks(&uplinks)?;
        let obstacles = std::thread::spawn(obstacles::obstacles);
        let names = match &settings.egress_program {
            None => None,
            Some((path, arguments)) => {
                let program = Program {
                    path: path.clone(),
                    arguments: arguments.iter().map(Into::into).collect(),
                };
                let starting = Names::start(
                    program,
                    &site,
                    &settings.allow_cidrs,
                    &settings.name_servers,
                    leases,
                    notices,
                );
                Some(tokio::runtime::Handle::current().block_on(starting)?)
            }
        };
        host.load(&site, settings, names.as_ref())?;
        let numbers = host.reconcile(&site, leases)?;
        host.obstacles = obstacles.join().unwrap_or_default();
        if !uplinks.ipv6.is_empty() && passing == Passing::NotByUs {
            host.obstacles.push(NO_IPV6.to_owned());
        }
        let maker = Maker::start(site.clone(), numbers, settings.ready)?;
        Ok(Self {
            site,
            settings: settings.clone(),
            maker,
            names,
            guard: Mutex::default(),
            host: Mutex::new(host),
        })
    }

    /// Whether new boxes may have it.
    pub(crate) fn is_offered(&self) -> bool {
        self.settings.choice != NetworkChoice::None
    }

    /// What stands in its way on this machine.
    pub(crate) fn degradations(&self) -> Vec<String> {
        self.host().obstacles.clone()
    }

    /// Takes a network for a box that may reach this.
    pub(crate) async fn take(&self, egress: &Egress) -> Result<Taken, NetworkError> {
        let made = self.maker.take().await?;
        let mut lease = Lease {
            number: made.number,
            interface: made.interface,
            address: self.site.subnet.address(made.number),
            address6: self.site.prefix.map(|prefix| prefix.address(made.number)),
            domains: None,
        };
        lease.set_egress(egress);
        Ok(Taken {
            lease,
            device: made.device,
            namespace: made.namespace,
        })
    }

    /// Lets a cable carry what its box may reach. Blocks for a moment.
    pub(crate) fn apply(&self, device: u32, egress: &Egress) -> Result<(), NetworkError> {
        let group = self.site.group(matches!(egress, Egress::Domains(_)));
        self.host()
            .netlink
            .set_group(device, group)
            .map_err(NetworkError::at("change what a sandbox reaches"))
    }

    /// Like `apply`, for a box that was found. Blocks for a moment.
    pub(crate) fn apply_to(&self, lease: &Lease) -> Result<(), NetworkError> {
        let device = self
            .host()
            .netlink
            .link(&lease.interface)
            .map_err(NetworkError::at("find a sandbox's cable"))?
            .index;
        self.apply(device, &lease.egress())
    }

    /// Gives back what a box had, once no process is in it any more. The kernel takes the cable back
    /// in a moment, many at a time; to do it here would cost each destroy ten milliseconds.
    pub(crate) fn release(&self, lease: &Lease) {
        self.maker.free(lease.number);
    }

    /// What files inside say of it.
    pub(crate) fn files(&self, lease: &Lease, name: &str) -> NetworkFiles {
        let mut hosts =
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
        for address in lease.addresses() {
            let _ = writeln!(hosts, "{address} {name}");
        }
        NetworkFiles {
            resolv_conf: format!("nameserver {}\n", self.site.subnet.gateway()),
            hosts,
        }
    }

    /// Looks whether the host's ways out have changed, and follows them. Blocks for a moment.
    pub(crate) fn tend(&self) -> Result<(), NetworkError> {
        let mut host = self.host();
        if host.closed {
            return Ok(());
        }
        let uplinks = Uplinks::find(&mut host.netlink, &self.settings.allow_cidrs)
            .map_err(NetworkError::at("look at the host's routes"))?;
        if host.open_uplinks(&uplinks)? {
            host.load(&self.site, &self.settings, self.names.as_ref())?;
        }
        self.remove_abandoned(&mut host)?;
        drop(host);
        if let Some(names) = &self.names {
            names.follow_upstreams();
        }
        Ok(())
    }

    /// Removes cables whose boxes are gone, should something have kept them.
    fn remove_abandoned(&self, host: &mut Host) -> Result<(), NetworkError> {
        const STEP: &str = "look at the sandboxes' cables";
        let links = host.netlink.links().map_err(NetworkError::at(STEP))?;
        for link in links {
            let number = self.site.number_of(&link.name);
            // Looked up after the list was made: whoever is on it and has no number is past.
            if number.is_some_and(|number| !self.maker.is_taken(number)) {
                host.netlink
                    .remove_link(link.index)
                    .map_err(NetworkError::at(STEP))?;
            }
        }
        Ok(())
    }

    /// Puts the rules back whenever somebody removes them.
    fn watch(self: &Arc<Self>) -> Result<(), NetworkError> {
        let bridge = Arc::downgrade(self);
        let removed = move || {
            let Some(bridge) = bridge.upgrade() else {
                return;
            };
            let host = bridge.host();
            // It was this process itself, which removes them to load others.
            if host.closed
                || stacyvm_firewall::is_loaded(
                    "inet",
                    &bridge.site.table(),
                    &["jump outwards", "jump to_host"],
                )
            {
                return;
            }
            tracing::warn!("somebody removed the network's rules; they are put back");
            if let Err(error) = host.load(&bridge.site, &bridge.settings, bridge.names.as_ref()) {
                tracing::error!(%error, "sandboxes have a network without rules");
            }
        };
        let guard = Guard::start(self.site.table(), removed)
            .map_err(NetworkError::at("watch over the network's rules"))?;
        *self.guard.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
        Ok(())
    }

    /// Whether boxes can be told which names they reach.
    pub(crate) fn has_names(&self) -> bool {
        self.names.is_some()
    }

    /// Lets a box resolve names, and reach what its lease says by name.
    pub(crate) async fn admit(&self, id: &SandboxId, lease: &Lease) -> Result<(), NetworkError> {
        match &self.names {
            Some(names) => names.set(id, lease).await,
            None => Ok(()),
        }
    }

    /// Takes back what `admit` gave.
    pub(crate) async fn dismiss(&self, id: &SandboxId) {
        if let Some(names) = &self.names {
            names.forget(id).await;
        }
    }

    /// Looks after the program for names. Never returns.
    pub(crate) async fn supervise(self: Arc<Self>, notices: Arc<Notices>) {
        let Some(names) = &self.names else { return };
        loop {
            names.renewed(&notices).await;
            let bridge = self.clone();
            let loaded = tokio::task::spawn_blocking(move || {
                let host = bridge.host();
                host.load(&bridge.site, &bridge.settings, bridge.names.as_ref())
            });
            if let Ok(Err(error)) = loaded.await {
                tracing::error!(%error, "sandboxes do not find the program for names");
            }
        }
    }

    /// Ends what this process does for it; when nobody `uses` it, removes it from the machine.
    /// Blocks for some tens of milliseconds.
    pub(crate) fn close(&self, used: bool) {
        self.maker.stop();
        let guard = self
            .guard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(guard) = guard {
            guard.stop();
        }
        if let Some(names) = &self.names {
            names.stop();
        }
        let mut host = self.host();
        host.closed = true;
        if !used {
            let Host {
                netlink, anchor, ..
            } = &mut *host;
            remove(netlink, anchor);
        }
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
