//! Network interfaces, addresses and routes, through the kernel's route socket (rtnetlink(7)).
//!
//! A socket belongs to the network namespace that its thread stood in when it was opened, and
//! stays there, so one thread can work in several. Calls are short and block. What interfaces mean
//! is the caller's affair.

mod filters;
mod message;

use std::ffi::CStr;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

pub use filters::{FilterNews, Removed};
use message::{Message, attributes, number};

/// The longest name of an interface, without a final nul.
pub const MAX_NAME: usize = 15;

/// How an answer may be at most; the kernel fills 32 KiB when it lists.
const BUFFER: usize = 64 * 1024;

/// A route socket in one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// A note that whoever made it has left, or nothing.
    pub alias: String,
    /// The largest packet it takes, bytes.
    pub mtu: u32,
    /// Its group.
    pub group: u32,
}

/// Two interfaces that are the two ends of one cable.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Name of the end in the socket's namespace.
    pub outer: &'a str,
    /// Name of the other end.
    pub inner: &'a str,
    /// Where the other end is.
    pub inner_namespace: BorrowedFd<'a>,
    /// The address of both ends. They are the same, and without a protocol to look addresses up
    /// (`IFF_NOARP`) the kernel then uses an end's own address for the other.
    pub hardware_address: [u8; 6],
    /// The largest packet, bytes.
    pub mtu: u32,
    /// The group of the outer end.
    pub group: u32,
}

/// What an interface does with packets, before it is up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Packets that arrive for others are passed on (IPv4).
    pub forwarding: bool,
    /// The other end needs not be asked for its hardware address.
    pub without_lookup: bool,
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Where it leads; none means everywhere of the family of `via`.
    pub to: Option<IpAddr>,
    /// How many bits of `to` count.
    pub prefix: u8,
    /// Through which interface.
    pub device: u32,
    /// Who passes it on; none means that the destination is on the cable.
    pub via: Option<IpAddr>,
    /// The address that packets of this machine carry on this way.
    pub source: Option<IpAddr>,
}

/// One route, as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it leads.
    pub to: IpAddr,
    /// How many bits of `to` count; 0 for a default route.
    pub prefix: u8,
    /// Through which interface; none for one that refuses, or with several ways.
    pub device: Option<u32>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel says.
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
            buffer: vec![0; BUFFER],
        })
    }

    /// Every interface.
    ///
    /// # Errors
    /// What the kernel says.
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

    /// The interface of this name.
    ///
    /// # Errors
    /// `ENODEV` when there is none; else what the kernel says.
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

    /// Makes two connected interfaces. They are down.
    ///
    /// # Errors
    /// `EEXIST` when a name is taken; else what the kernel says.
    pub fn make_pair(&mut self, pair: &Pair<'_>) -> Result<()> {
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

    /// Leaves a note on an interface.
    ///
    /// # Errors
    /// What the kernel says; a note has at most 255 bytes.
    pub fn set_alias(&mut self, device: u32, note: &str) -> Result<()> {
        let mut request = Message::new(libc::RTM_SETLINK, 0);
        request.link_header(device, 0, 0);
        request.text(libc::IFLA_IFALIAS, note);
        self.command(request)
    }

    /// Puts an interface into a group, by which packet filters know it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_group(&mut self, device: u32, group: u32) -> Result<()> {
        let mut request = Message::new(libc::RTM_SETLINK, 0);
        request.link_header(device, 0, 0);
        request.u32(libc::IFLA_GROUP, group);
        self.command(request)
    }

    /// Sets an interface up and switches it on. It makes no IPv6 address for itself.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn raise(&mut self, device: u32, manner: Manner) -> Result<()> {
        const CONF: u16 = 1;
        const CONF_FORWARDING: u16 = 1;
        const ADDR_GEN_MODE: u16 = 8;
        const ADDR_GEN_NONE: u8 = 1;
        let families = |request: &mut Message, ipv6: bool| {
            let all = request.open(libc::IFLA_AF_SPEC);
            let family = request.open(family_number(libc::AF_INET));
            let conf = request.open(CONF);
            request.u32(CONF_FORWARDING, manner.forwarding.into());
            request.close(conf);
            request.close(family);
            if ipv6 {
                let family = request.open(family_number(libc::AF_INET6));
                request.bytes(ADDR_GEN_MODE, &[ADDR_GEN_NONE]);
                request.close(family);
            }
            request.close(all);
        };
        // Before it is up, or the kernel is quicker with an address.
        let mut request = Message::new(libc::RTM_SETLINK, 0);
        request.link_header(device, 0, 0);
        families(&mut request, true);
        match self.command(request) {
            // A kernel that has no IPv6 makes no such address either.
            Err(Errno::AFNOSUPPORT | Errno::OPNOTSUPP) => {
                let mut request = Message::new(libc::RTM_SETLINK, 0);
                request.link_header(device, 0, 0);
                families(&mut request, false);
                self.command(request)?;
            }
            other => other?,
        }
        let mut flags = libc::IFF_UP;
        if manner.without_lookup {
            flags |= libc::IFF_NOARP;
        }
        let mut request = Message::new(libc::RTM_SETLINK, 0);
        request.link_header(device, flags.cast_unsigned(), flags.cast_unsigned());
        self.command(request)
    }

    /// Removes an interface, and its other end with it. Success when it is gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_link(&mut self, device: u32) -> Result<()> {
        let mut request = Message::new(libc::RTM_DELLINK, 0);
        request.link_header(device, 0, 0);
        match self.command(request) {
            Err(Errno::NODEV) => Ok(()),
            other => other,
        }
    }

    /// Removes every interface of a group, which must not be 0, for the price of one. Success when
    /// there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_group(&mut self, group: u32) -> Result<()> {
        if group == 0 {
            // That is where all others are.
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

    /// Gives an interface an address of its own, and no network around it. One that it has is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_address(&mut self, device: u32, address: IpAddr) -> Result<()> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        /// Nobody else can have it: it is not asked for first.
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
    /// `EEXIST` when there is one to the same place; else what the kernel says.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        let (family, _) = parts(route.to.or(route.via).ok_or(Errno::INVAL)?);
        // The gateway is on the cable, whatever the routes say (`include/uapi/linux/rtnetlink.h`).
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

    /// Routes of the main table, of both families.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes(&mut self) -> Result<Vec<Known>> {
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

    /// Sends one request and hears all of the answer.
    fn exchange(&mut self, request: Message, mut hear: impl FnMut(u16, &[u8])) -> Result<()> {
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
                    _ => hear(kind, body),
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

fn describe_end(request: &mut Message, name: &str, pair: &Pair<'_>) {
    request.text(libc::IFLA_IFNAME, name);
    request.bytes(libc::IFLA_ADDRESS, &pair.hardware_address);
    request.u32(libc::IFLA_MTU, pair.mtu);
    // One queue each: by default the kernel makes one a processor, and each costs memory.
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

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

fn read_text(bytes: &[u8]) -> String {
    CStr::from_bytes_until_nul(bytes).map_or_else(
        |_| String::from_utf8_lossy(bytes).into_owned(),
        |text| text.to_string_lossy().into_owned(),
    )
}

fn read_link(body: &[u8]) -> Option<Link> {
    /// Of `struct ifinfomsg`.
    const HEADER: usize = 16;
    let mut link = Link {
        index: number(body.get(4..8)?)?,
        name: String::new(),
        alias: String::new(),
        mtu: 0,
        group: 0,
    };
    for (kind, value) in attributes(body.get(HEADER..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = read_text(value),
            libc::IFLA_IFALIAS => link.alias = read_text(value),
            libc::IFLA_MTU => link.mtu = number(value)?,
            libc::IFLA_GROUP => link.group = number(value)?,
            _ => {}
        }
    }
    Some(link)
}

fn read_route(body: &[u8]) -> Option<Known> {
    /// Of `struct rtmsg`.
    const HEADER: usize = 12;
    let header = body.get(..HEADER)?;
    if header[4] != libc::RT_TABLE_MAIN {
        return None;
    }
    let mut route = Known {
        to: match i32::from(header[0]) {
            libc::AF_INET => IpAddr::from([0; 4]),
            libc::AF_INET6 => IpAddr::from([0; 16]),
            _ => return None,
        },
        prefix: header[1],
        device: None,
    };
    for (kind, value) in attributes(&body[HEADER..]) {
        match kind {
            libc::RTA_DST => route.to = read_address(value)?,
            libc::RTA_OIF => route.device = number(value),
            _ => {}
        }
    }
    Some(route)
}

#[cfg(test)]
mod tests;
