//! The sockets that sandboxes connect to.
//!
//! They are bound before any privilege is given up, and also at addresses that do not exist yet:
//! those come and go with the sandboxes.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::io::Result;
use rustix::net::sockopt::{
    set_ip_freebind, set_ipv6_freebind, set_ipv6_v6only, set_socket_reuseaddr,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use crate::failure::{Failure, Step as _};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Ports that are tried when any port will do.
const MAX_PORT_TRIES: usize = 16;

/// UDP and TCP at the same port of one address. For port 0, one that is free for both.
pub(crate) fn both(address: SocketAddr) -> std::result::Result<(UdpSocket, TcpListener), Failure> {
    let mut tries = if address.port() == 0 {
        MAX_PORT_TRIES
    } else {
        1
    };
    loop {
        let udp = udp(address)?;
        let bound = udp.local_addr().step("ask for the port")?;
        tries -= 1;
        match tcp(bound) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(failure) if tries == 0 => return Err(failure),
            Err(_) => {}
        }
    }
}

/// A listening TCP socket.
pub(crate) fn tcp(address: SocketAddr) -> std::result::Result<TcpListener, Failure> {
    let open = || -> Result<OwnedFd> {
        let socket = bound(address, SocketType::STREAM)?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    open()
        .map(TcpListener::from)
        .step(&format!("listen on TCP {address}"))
}

/// A UDP socket at one address.
fn udp(address: SocketAddr) -> std::result::Result<UdpSocket, Failure> {
    if address.ip().is_unspecified() {
        return Err(Failure(format!(
            "names cannot be resolved on {address}: an answer must leave from the address that was \
             asked, so name each address"
        )));
    }
    bound(address, SocketType::DGRAM)
        .map(UdpSocket::from)
        .step(&format!("listen on UDP {address}"))
}

fn bound(address: SocketAddr, kind: SocketType) -> Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, None)?;
    match address {
        SocketAddr::V4(_) => set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => {
            set_ipv6_v6only(&socket, true)?;
            set_ipv6_freebind(&socket, true)?;
        }
    }
    if kind == SocketType::STREAM {
        // Connections of an earlier process may still be closing.
        set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}
