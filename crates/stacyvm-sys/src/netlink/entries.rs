//! Reading what the kernel says of interfaces and routes.

use std::ffi::CStr;
use std::net::IpAddr;

use super::message::{attributes, number};

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias, a text that the maker of the interface may set; empty without one.
    pub alias: String,
    /// The largest packet it takes, bytes.
    pub mtu: u32,
    /// Its group.
    pub group: u32,
}

/// One route, as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// The destination.
    pub to: IpAddr,
    /// How many bits of `to` count; 0 for a default route.
    pub prefix: u8,
    /// Number of the interface; none for a route that refuses, or that has several interfaces.
    pub device: Option<u32>,
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

pub(super) fn read_text(bytes: &[u8]) -> String {
    CStr::from_bytes_until_nul(bytes).map_or_else(
        |_| String::from_utf8_lossy(bytes).into_owned(),
        |text| text.to_string_lossy().into_owned(),
    )
}

pub(super) fn read_link(body: &[u8]) -> Option<Link> {
    /// Length of `struct ifinfomsg`.
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

pub(super) fn read_route(body: &[u8]) -> Option<RouteEntry> {
    /// Length of `struct rtmsg`.
    const HEADER: usize = 12;
    let header = body.get(..HEADER)?;
    if header[4] != libc::RT_TABLE_MAIN {
        return None;
    }
    let mut route = RouteEntry {
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
