//! The way out of sandboxes that may reach only some names.
//!
//! Owns the listeners, the reading of a connection's first bytes and the limits; what TLS and HTTP
//! need is in files of their own. Its one rule: the address that a sandbox wanted to connect to
//! counts for nothing. The name in the connection is judged, and the connection goes where that
//! name leads.

mod http;
mod request;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_nodelay};
use stacyvm_sys::redirect::original_destination;
use stacyvm_types::HostName;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::control::{Limits, Reason};
use crate::dial::{DialError, Dialer};
use crate::doors::Doors;
use crate::members::{Member, Members};
use crate::notices::Notices;
use crate::sniff::{self, First};

/// What the listeners share.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) members: Arc<Members>,
    pub(crate) dialer: Dialer,
    pub(crate) notices: Notices,
    pub(crate) doors: Arc<Doors>,
    pub(crate) limits: Limits,
}

/// A connection of a sandbox.
#[derive(Debug)]
struct Caller {
    proxy: Arc<Proxy>,
    member: Arc<Member>,
    source: SocketAddr,
    /// Where it wanted to go; of this only the port is believed.
    destination: SocketAddr,
}

impl Proxy {
    /// Takes connections for ever.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, source)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Some(member) = self.members.at(source.ip()) else {
                continue;
            };
            let Some(destination) = destination(&stream) else {
                let here = stream.local_addr().unwrap_or(source);
                let reason = Reason::NotRedirected;
                self.notices
                    .refused_address(&member, here.ip(), here.port(), reason);
                continue;
            };
            let caller = Caller {
                proxy: self.clone(),
                member,
                source,
                destination,
            };
            if caller.member.is_open(source.ip()) {
                caller.refused_address(Reason::NotRedirected);
                continue;
            }
            let Some(inside) = self.doors.enter(&caller.member) else {
                caller.refused_address(Reason::Limit);
                continue;
            };
            tokio::spawn(async move {
                caller.serve(stream).await;
                drop(inside);
            });
        }
    }
}

/// Where a redirected connection wanted to go.
fn destination(stream: &TcpStream) -> Option<SocketAddr> {
    let destination = original_destination(stream).ok()?;
    // With nothing in between, connection tracking remembers this very listener.
    let here = stream.local_addr().ok()?;
    (destination.ip().to_canonical() != here.ip().to_canonical()
        || destination.port() != here.port())
    .then_some(destination)
}

impl Caller {
    async fn serve(self, mut stream: TcpStream) {
        prepare(&stream);
        let patience = Duration::from_millis(self.proxy.limits.head_ms);
        let mut begin = Vec::new();
        let looked = timeout(patience, first(&mut stream, &mut begin)).await;
        match looked {
            Ok(Ok(First::Tls(name))) => tls::serve(&self, stream, begin, name).await,
            Ok(Ok(First::Malformed)) => {
                self.refused_address(Reason::Malformed);
                tls::refuse(stream, tls::DECODE_ERROR).await;
            }
            Ok(Ok(First::Http)) => http::serve(self, stream, begin).await,
            // The client has nothing to say: it waits for the other side to begin, or never meant
            // to.
            Ok(Ok(First::Other | First::More)) | Err(_) => self.refused_address(Reason::NoName),
            Ok(Err(_)) => {}
        }
    }

    fn allows(&self, host: &HostName) -> bool {
        self.member.allows(self.source.ip(), host)
    }

    fn refused(&self, target: &str, reason: Reason) {
        let port = Some(self.destination.port());
        self.proxy
            .notices
            .refused(&self.member, target, port, reason);
    }

    fn refused_address(&self, reason: Reason) {
        let (address, port) = (self.destination.ip(), self.destination.port());
        self.proxy
            .notices
            .refused_address(&self.member, address, port, reason);
    }

    /// Connects to a host that the sandbox may reach, at the port that it wanted.
    async fn dial(&self, host: &HostName) -> Result<TcpStream, DialError> {
        let dialled = self.proxy.dialer.dial(host, self.destination.port()).await;
        match &dialled {
            Ok(stream) => prepare(stream),
            Err(DialError::Refused(..)) => self.refused(&host.to_string(), Reason::Address),
            Err(DialError::Unresolved(_) | DialError::Unreachable(..)) => {}
        }
        dialled
    }
}

/// Small pieces are sent at once, and peers that vanished are noticed. Neither is worth a failure.
fn prepare(stream: &TcpStream) {
    let _ = set_tcp_nodelay(stream, true);
    let _ = set_socket_keepalive(stream, true);
}

/// Reads until it can be told what the connection is; `More` when it ends before.
async fn first(stream: &mut TcpStream, begin: &mut Vec<u8>) -> std::io::Result<First> {
    let mut room = (&mut *stream).take(sniff::MAX_BYTES as u64);
    loop {
        if room.read_buf(begin).await? == 0 {
            return Ok(First::More);
        }
        match sniff::look(begin) {
            First::More => {}
            known => return Ok(known),
        }
    }
}
