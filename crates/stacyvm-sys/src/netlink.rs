//! Network interfaces, addresses and routes, through the kernel's route socket (rtnetlink(7)).
//!
//! A socket belongs to the network namespace in which its thread was when it was opened, and stays
//! there, so one thread can work in several. Calls are short and block. The caller decides what
//! interfaces are for.

mod entries;
mod filters;
mod message;

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

pub use entries::{Link, RouteEntry};
use entries::{read_link, read_route};
pub use filters::{FilterWatch, RemovedFrom};
use message::{BUFFER_SIZE, Message};

/// The longest name of an interface, without a final nul.
pub const MAX_NAME: usize = 15;

/// A route socket in one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A pair of veth interfaces: what one end sends, the other receives.
#[derive(Clone, Copy, Debug)]
pub struct VethPair<'a> {
    /// Name of the end in the socket's namespace.
    pub outer: &'a str,
    /// Name of the other end.
    pub inner: &'a str,
    /// The network namespace of the other end.
    pub inner_namespace: BorrowedFd<'a>,
    /// The address of both ends. They are the same, and without a protocol to look addresses up
    /// (`IFF_NOARP`) the kernel then uses an end's own address for the other.
    pub hardware_address: [u8; 6],
    /// The largest packet, bytes.
    pub mtu: u32,
    /// The group of the outer end.
    pub group: u32,
}

/// How an interface treats packets; set before it is up.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkSettings {
    /// Whether packets for other machines are forwarded (IPv4).
    pub forwarding: bool,
    /// Whether the other end is not asked for its hardware address.
    pub without_lookup: bool,
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The destination; none means every address of the family of `via`.
    pub to: Option<IpAddr>,
    /// How many bits of `to` count.
    pub prefix: u8,
    /// Number of the interface.
    pub device: u32,
    /// The gateway; none means that the destination is on the link.
    pub via: Option<IpAddr>,
    /// The source address of this machine's packets on this route.
    pub source: Option<IpAddr>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The error of the system call.
    pub fn open() -> Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is protocol 0, which is the default.
            None,
        )?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER_SIZE],
        })
    }

    /// Lists every interface.
    ///
    /// # Errors
    /// The error of the request.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut request = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP);
        request.link_header(0, 0, 0);
        let mut links = Vec::new();
        self.exchange(request, |kind, body| {
            if kind == libc::RTM_NEWLINK
                && let Some(link) = read_link(body)
            {
                links.push(link);
            }
        })?;
        Ok(links)
    }

    /// Finds the interface of this name.
    ///
    /// # Errors
    /// `ENODEV` when there is none; otherwise the error of the request.
    pub fn link(&mut self, name: &str) -> Result<Link> {
        let mut request = Message::new(libc::RTM_GETLINK, 0);
        request.link_header(0, 0, 0);
        request.text(libc::IFLA_IFNAME, name);
        let mut link = None;
        self.exchange(request, |kind, body| {
            if kind == libc::RTM_NEWLINK {
                link = read_link(body);
            }
        })?;
        link.ok_or(Errno::NODEV)
    }

    /// Makes a veth pair. Both ends are down.
    ///
    /// # Errors
    /// `EEXIST` when a name is taken; otherwise the error of the request.
    pub fn make_veth_pair(&mut self, pair: &VethPair<'_>) -> Result<()> {
        const VETH_INFO_PEER: u16 = 1;
        let mut request = Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        request.link_header(0, 0, 0);
        describe_end(&mut request, pair.outer, pair);
        request.u32(libc::IFLA_GROUP, pair.group);
        let information = request.open(libc::IFLA_LINKINFO);
        request.text(libc::IFLA_INFO_KIND, "veth");
        let data = request.open(libc::IFLA_INFO_DATA);
        let peer = request.open(VETH_INFO_PEER);
        request.link_header(0, 0, 0);
        describe_end(&mut request, pair.inner, pair);
        let namespace = pair.inner_namespace.as_raw_fd();
        request.u32(libc::IFLA_NET_NS_FD, namespace.cast_unsigned());
        request.close(peer);
        request.close(data);
        request.close(information);
        self.command(request)
    }

    /// Makes an interface of a kind that needs no settings, such as `dummy` or `bridge`. It is down.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, `EOPNOTSUPP` when the kernel has no such kind.
    pub fn make_link(&mut self, name: &str, kind: &str) -> Result<()> {
        let mut request = Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        request.link_header(0, 0, 0);
        request.text(libc::IFLA_IFNAME, name);
        let information = request.open(libc::IFLA_LINKINFO);
        request.text(libc::IFLA_INFO_KIND, kind);
        request.close(information);
        self.command(request)
    }

    /// Sets the alias of an interface.
    ///
    /// # Errors
    /// The error of the request; an alias has at most 255 bytes.
    pub fn set_alias(&mut self, device: u32, alias: &str) -> Result<()> {
        let mut request = Message::new(libc::RTM_SETLINK, 0);
        request.link_header(device, 0, 0);
        request.text(libc::IFLA_IFALIAS, alias);
        self.command(request)
    }

    /// Puts an interface into a group, which packet filters can match.
    ///
    /// # Errors
    /// The error of the request.
    pub fn set_group(&mut self, device: u32, group: u32) -> Result<()> {
        let mut request = Message::new(libc::RTM_SETLINK, 0);
        request.link_header(device, 0, 0);
        request.u32(libc::IFLA_GROUP, group);
        self.command(request)
    }

    /// Applies the settings to an interface and brings it up. The interface generates no IPv6 address.
    ///
    /// # Errors
    /// The error of the request.
    pub fn set_up(&mut self, device: u32, settings: LinkSettings) -> Result<()> {
        const CONF: u16 = 1;
        const CONF_FORWARDING: u16 = 1;
        const ADDR_GEN_MODE: u16 = 8;
        const ADDR_GEN_NONE: u8 = 1;
        let families = |request: &mut Message, ipv6: bool| {
            let all = request.open(libc::IFLA_AF_SPEC);
            let family = request.open(family_number(libc::AF_INET));
            let conf = request.open(CONF);
            request.u32(CONF_FORWARDING, settings.forwarding.into());
            request.close(conf);
            request.close(family);
            if ipv6 {
                let family = request.open(family_number(libc::AF_INET6));
                request.bytes(ADDR_GEN_MODE, &[ADDR_GEN_NONE]);
                request.close(family);
            }
            request.close(all);
        };
        // Before it is up, because the kernel generates the address when it comes up.
        let mut request = Message::new(libc::RTM_SETLINK, 0);
        request.link_header(device, 0, 0);
        families(&mut request, true);
        match self.command(request) {
            // A kernel without IPv6 generates no such address.
            Err(Errno::AFNOSUPPORT | Errno::OPNOTSUPP) => {
                let mut request = Message::new(libc::RTM_SETLINK, 0);
                request.link_header(device, 0, 0);
                families(&mut request, false);
                self.command(request)?;
            }
            other => other?,
        }
        let mut flags = libc::IFF_UP;
        if settings.without_lookup {
            flags |= libc::IFF_NOARP;
        }
        let mut request = Message::new(libc::RTM_SETLINK, 0);
        request.link_header(device, flags.cast_unsigned(), flags.cast_unsigned());
        self.command(request)
    }

    /// Removes an interface, and the other end of a pair with it. One that is gone is success.
    ///
    /// # Errors
    /// The error of the request.
    pub fn remove_link(&mut self, device: u32) -> Result<()> {
        let mut request = Message::new(libc::RTM_DELLINK, 0);
        request.link_header(device, 0, 0);
        match self.command(request) {
            Err(Errno::NODEV) => Ok(()),
            other => other,
        }
    }

    /// Removes every interface of a group, which must not be 0, in one request. A group without
    /// interfaces is success.
    ///
    /// # Errors
    /// `EINVAL` for group 0; otherwise the error of the request.
    pub fn remove_group(&mut self, group: u32) -> Result<()> {
        if group == 0 {
            // Group 0 is the default group of all interfaces.
            return Err(Errno::INVAL);
        }
        let mut request = Message::new(libc::RTM_DELLINK, 0);
        request.link_header(0, 0, 0);
        request.u32(libc::IFLA_GROUP, group);
        match self.command(request) {
            Err(Errno::NODEV) => Ok(()),
            other => other,
        }
    }

    /// Adds a single address to an interface, without a network around it. An address that it already
    /// has is success.
    ///
    /// # Errors
    /// The error of the request.
    pub fn add_address(&mut self, device: u32, address: IpAddr) -> Result<()> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        /// No duplicate detection: no other interface on the link can have the address.
        const IFA_F_NODAD: u8 = 2;
        let (family, bytes) = parts(address);
        let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
        let whole = u8::try_from(bytes.len() * 8).expect("at most 128 bits");
        let mut request = Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        request.raw(&[family, whole, flags, 0]);
        request.raw(&device.to_ne_bytes());
        request.bytes(IFA_LOCAL, &bytes);
        request.bytes(IFA_ADDRESS, &bytes);
        match self.command(request) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    /// Adds a route.
    ///
    /// # Errors
    /// `EEXIST` when there is one to the same place; otherwise the error of the request.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        let (family, _) = parts(route.to.or(route.via).ok_or(Errno::INVAL)?);
        // The gateway is on the link, whatever the routes say (`include/uapi/linux/rtnetlink.h`).
        const RTNH_F_ONLINK: u32 = 4;
        let (scope, flags) = match route.via {
            Some(_) => (libc::RT_SCOPE_UNIVERSE, RTNH_F_ONLINK),
            None => (libc::RT_SCOPE_LINK, 0),
        };
        let mut request = Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        let prefix = if route.to.is_some() { route.prefix } else { 0 };
        request.raw(&[
            family,
            prefix,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            scope,
            libc::RTN_UNICAST,
        ]);
        request.raw(&flags.to_ne_bytes());
        for (kind, address) in [
            (libc::RTA_DST, route.to),
            (libc::RTA_GATEWAY, route.via),
            (libc::RTA_PREFSRC, route.source),
        ] {
            if let Some(address) = address {
                request.bytes(kind, &parts(address).1);
            }
        }
        request.u32(libc::RTA_OIF, route.device);
        self.command(request)
    }

    /// Lists the routes of the main table, of both families.
    ///
    /// # Errors
    /// The error of the request.
    pub fn routes(&mut self) -> Result<Vec<RouteEntry>> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut request = Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP);
            request.raw(&[
                u8::try_from(family).expect("a small number"),
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
            let listed = self.exchange(request, |kind, body| {
                if kind == libc::RTM_NEWROUTE
                    && let Some(route) = read_route(body)
                {
                    routes.push(route);
                }
            });
            match listed {
                // A kernel without IPv6 has no such routes.
                Err(Errno::AFNOSUPPORT | Errno::OPNOTSUPP) if family == libc::AF_INET6 => {}
                other => other?,
            }
        }
        Ok(routes)
    }

    fn command(&mut self, request: Message) -> Result<()> {
        self.exchange(request, |_, _| {})
    }

    /// Sends one request and passes each message of the answer to `read`.
    fn exchange(&mut self, request: Message, mut read: impl FnMut(u16, &[u8])) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        send(&self.socket, &bytes, SendFlags::empty())?;
        loop {
            let (length, whole) = recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC)?;
            if whole > length {
                return Err(Errno::MSGSIZE);
            }
            let ours = message::split(&self.buffer[..length]);
            for (kind, sequence, body) in ours {
                if sequence != self.sequence {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_ERROR => return message::answer(body),
                    libc::NLMSG_DONE => return Ok(()),
                    _ => read(kind, body),
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn describe_end(request: &mut Message, name: &str, pair: &VethPair<'_>) {
    request.text(libc::IFLA_IFNAME, name);
    request.bytes(libc::IFLA_ADDRESS, &pair.hardware_address);
    request.u32(libc::IFLA_MTU, pair.mtu);
    // One queue in each direction: the default is one for each processor, which costs memory.
    request.u32(libc::IFLA_NUM_TX_QUEUES, 1);
    request.u32(libc::IFLA_NUM_RX_QUEUES, 1);
}

fn family_number(family: i32) -> u16 {
    u16::try_from(family).expect("families are small numbers")
}

/// The family of an address and its bytes.
fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    (u8::try_from(family).expect("a small number"), bytes)
}

#[cfg(test)]
mod tests;
