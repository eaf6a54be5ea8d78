//! The original destination of a connection that the packet filter redirected here.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::{Errno, Result};
use rustix::net::AddressFamily;

/// The original destination address of an accepted TCP connection, from connection tracking.
///
/// # Errors
/// `ENOENT` or `ENOPROTOOPT` when nothing was redirected, because connection tracking does not
/// know the connection or is not there; `EAFNOSUPPORT` when the socket is not an internet one.
pub fn original_destination(socket: impl AsFd) -> Result<SocketAddr> {
    let socket = socket.as_fd();
    let peer = rustix::net::getpeername(socket)?.ok_or(Errno::NOTCONN)?;
    match peer.address_family() {
        AddressFamily::INET => original_v4(socket),
        // A socket for both families has an IPv4 peer as a mapped address; connection tracking has
        // such a connection in its IPv4 table.
        AddressFamily::INET6 => match SocketAddrV6::try_from(peer) {
            Ok(peer) if peer.ip().to_ipv4_mapped().is_some() => original_v4(socket),
            _ => original_v6(socket),
        },
        _ => Err(Errno::AFNOSUPPORT),
    }
}

fn original_v4(socket: impl AsFd) -> Result<SocketAddr> {
    // SAFETY: every field of the C structure may be zero.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    // SAFETY: a sockaddr_in is plain numbers, so any bytes make a valid one.
    unsafe { ask(socket, libc::SOL_IP, libc::SO_ORIGINAL_DST, &mut address)? };
    let ip = Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr));
    Ok(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
}

fn original_v6(socket: impl AsFd) -> Result<SocketAddr> {
    // SAFETY: every field of the C structure may be zero.
    let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    let name = libc::IP6T_SO_ORIGINAL_DST;
    // SAFETY: a sockaddr_in6 is plain numbers, so any bytes make a valid one.
    unsafe { ask(socket, libc::SOL_IPV6, name, &mut address)? };
    let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
    Ok(SocketAddrV6::new(ip, u16::from_be(address.sin6_port), 0, 0).into())
}

/// Reads a socket option that fills all of `value`.
///
/// # Safety
/// Every pattern of bytes must be a valid `T`.
unsafe fn ask<T>(
    socket: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
) -> Result<()> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel writes at most `length` bytes, which is how many `value` has; both
    // outlive the call, and the caller guarantees that every pattern of bytes is valid.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(value).cast(),
            &raw mut length,
        )
    };
    crate::check(result.into())?;
    if usize::try_from(length) == Ok(size_of::<T>()) {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_nobody_redirected_has_no_other_destination() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let here = listener.local_addr().expect("it is bound");
            let _client = TcpStream::connect(here).expect("connect");
            let (accepted, _) = listener.accept().expect("accept");
            // Where connection tracking is on, it remembers the address itself.
            match original_destination(&accepted) {
                Ok(destination) => assert_eq!(destination, here),
                Err(error) => assert!(
                    matches!(error, Errno::NOENT | Errno::NOPROTOOPT | Errno::OPNOTSUPP),
                    "{error}"
                ),
            }
        }
    }
}
