//! Making one network: a namespace, a veth pair into it, addresses and routes.
//!
//! Runs on a thread of its own, because it moves between namespaces.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use stacyvm_sys::namespaces;
use stacyvm_sys::netlink::{LinkSettings, Netlink, Route, VethPair};
use stacyvm_sys::netns;

use super::error::NetworkError;
use super::layout::NetworkLayout;
use super::uplinks;

/// The hardware address of both ends of every veth pair. Bit 1 of the first byte marks it as locally
/// administered; the rest has no meaning.
const HARDWARE_ADDRESS: [u8; 6] = [0x02, b's', b't', b'a', b'c', b'y'];
/// The name of the inner end, as programs expect it.
const INSIDE_INTERFACE: &str = "eth0";

/// A network that no sandbox has yet.
#[derive(Debug)]
pub(crate) struct PreparedNetwork {
    pub(crate) number: u32,
    /// The name of the host's end of its veth pair.
    pub(crate) interface: String,
    /// The index of the host's end.
    pub(crate) device: u32,
    pub(crate) namespace: OwnedFd,
}

/// The thread's sockets and namespaces.
pub(super) struct NamespaceBuilder<'a> {
    layout: &'a NetworkLayout,
    host_namespace: OwnedFd,
    host: Netlink,
}

impl<'a> NamespaceBuilder<'a> {
    pub(super) fn open(layout: &'a NetworkLayout) -> Result<Self, Errno> {
        Ok(Self {
            layout,
            host_namespace: netns::of_thread()?,
            host: Netlink::open()?,
        })
    }

    /// Makes the network of the sandbox with this number.
    pub(super) fn make(&mut self, number: u32) -> Result<PreparedNetwork, NetworkError> {
        let namespace =
            netns::make_on_thread().map_err(NetworkError::at("make a network namespace"))?;
        let mut inside = self.socket_in(&namespace)?;
        let interface = self.layout.interface(number);
        let device = self
            .make_veth(number, &interface, &namespace)
            .map_err(NetworkError::at("connect a network"))?;
        if self.layout.force_ipv6 {
            uplinks::forward_ipv6(&interface).map_err(|error| NetworkError::Kernel {
                step: "let IPv6 pass",
                errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
            })?;
        }
        self.configure_inside(number, &mut inside)
            .map_err(NetworkError::at("give a network its addresses"))?;
        Ok(PreparedNetwork {
            number,
            interface,
            device,
            namespace,
        })
    }

    /// Opens a route socket in a namespace; the thread returns to the host's.
    fn socket_in(&self, namespace: &OwnedFd) -> Result<Netlink, NetworkError> {
        const STEP: &str = "enter a network namespace";
        namespaces::enter(namespace).map_err(NetworkError::at(STEP))?;
        let socket = Netlink::open();
        namespaces::enter(&self.host_namespace)
            .map_err(|_| NetworkError::at(STEP)(Errno::NOTRECOVERABLE))?;
        socket.map_err(NetworkError::at(STEP))
    }

    /// Makes the veth pair, and routes the sandbox's addresses into it.
    fn make_veth(
        &mut self,
        number: u32,
        interface: &str,
        namespace: &OwnedFd,
    ) -> Result<u32, Errno> {
        self.host.make_veth_pair(&VethPair {
            outer: interface,
            inner: INSIDE_INTERFACE,
            inner_namespace: namespace.as_fd(),
            hardware_address: HARDWARE_ADDRESS,
            mtu: self.layout.mtu,
            group: self.layout.group(false),
        })?;
        let device = self.host.link(interface)?.index;
        let settings = LinkSettings {
            forwarding: true,
            without_lookup: true,
        };
        self.host.set_up(device, settings)?;
        let subnet = self.layout.subnet;
        let mut addresses: Vec<(IpAddr, Option<IpAddr>)> =
            vec![(subnet.address(number).into(), Some(subnet.gateway().into()))];
        if let Some(prefix) = self.layout.prefix {
            addresses.push((prefix.address(number).into(), None));
        }
        for (address, source) in addresses {
            self.host.add_route(&Route {
                to: Some(address),
                prefix: if address.is_ipv4() { 32 } else { 128 },
                device,
                via: None,
                source,
            })?;
        }
        Ok(device)
    }

    /// Gives the inner end its addresses and its default routes.
    fn configure_inside(&self, number: u32, inside: &mut Netlink) -> Result<(), Errno> {
        let device = inside.link(INSIDE_INTERFACE)?.index;
        let settings = LinkSettings {
            forwarding: false,
            without_lookup: true,
        };
        inside.set_up(device, settings)?;
        let subnet = self.layout.subnet;
        let mut routes: Vec<(IpAddr, IpAddr)> =
            vec![(subnet.address(number).into(), subnet.gateway().into())];
        if let Some(prefix) = self.layout.prefix {
            routes.push((prefix.address(number).into(), prefix.gateway().into()));
        }
        for (address, gateway) in routes {
            inside.add_address(device, address)?;
            inside.add_route(&Route {
                to: None,
                prefix: 0,
                device,
                via: Some(gateway),
                source: None,
            })?;
        }
        Ok(())
    }
}
