//! The proxy for sandboxes that may reach only some names.
//!
//! Owns the listeners, the reading of a connection's first bytes and the limits; TLS and HTTP are
//! served in files of their own. Its one rule: the address that a sandbox wanted to connect to
//! counts for nothing. The name in the connection is judged, and the connection goes where that
//! name leads.

mod connection;
mod copy;
mod http;
mod request;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stacyvm_sys::redirect::original_destination;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::connection_limits::ConnectionLimits;
use crate::control::Reason;
use crate::sandboxes::Sandboxes;
use crate::sniff::{self, Protocol};

pub(crate) use connection::ProxyContext;
use connection::SandboxConnection;

/// Takes redirected connections of sandboxes.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) connection_limits: Arc<ConnectionLimits>,
    pub(crate) context: Arc<ProxyContext>,
}

impl Proxy {
    /// Takes connections for ever.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, source)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            self.accept(stream, source);
        }
    }

    /// Serves a connection in a task of its own, unless it is refused at once.
    fn accept(&self, stream: TcpStream, source: SocketAddr) {
        let Some(sandbox) = self.sandboxes.at(source.ip()) else {
            return;
        };
        let Some(destination) = destination(&stream) else {
            let here = stream.local_addr().unwrap_or(source);
            let reason = Reason::NotRedirected;
            let notices = &self.context.notices;
            notices.refused_address(&sandbox, here.ip(), here.port(), reason);
            return;
        };
        let connection = SandboxConnection {
            context: self.context.clone(),
            sandbox,
            source,
            destination,
        };
        if connection.sandbox.is_open(source.ip()) {
            connection.refused_address(Reason::NotRedirected);
            return;
        }
        let Some(permit) = self.connection_limits.acquire(&connection.sandbox) else {
            connection.refused_address(Reason::Limit);
            return;
        };
        tokio::spawn(async move {
            serve_connection(connection, stream).await;
            drop(permit);
        });
    }
}

/// Where a redirected connection wanted to go; none when it was not redirected.
fn destination(stream: &TcpStream) -> Option<SocketAddr> {
    let destination = original_destination(stream).ok()?;
    // Without a redirect, connection tracking names this very listener as the destination.
    let here = stream.local_addr().ok()?;
    (destination.ip().to_canonical() != here.ip().to_canonical()
        || destination.port() != here.port())
    .then_some(destination)
}

/// Serves a connection by the protocol that its first bytes are in.
async fn serve_connection(connection: SandboxConnection, mut stream: TcpStream) {
    connection::set_options(&stream);
    let head_timeout = Duration::from_millis(connection.context.limits.head_ms);
    let mut begin = Vec::new();
    let detected = timeout(head_timeout, detect(&mut stream, &mut begin)).await;
    match detected {
        Ok(Ok(Protocol::Tls(name))) => tls::serve(&connection, stream, begin, name).await,
        Ok(Ok(Protocol::Malformed)) => {
            connection.refused_address(Reason::Malformed);
            tls::refuse(stream, tls::DECODE_ERROR).await;
        }
        Ok(Ok(Protocol::Http)) => http::serve(connection, stream, begin).await,
        // A client that sends nothing waits for the server to begin, or never meant to speak.
        Ok(Ok(Protocol::Unknown | Protocol::Incomplete)) | Err(_) => {
            connection.refused_address(Reason::NoName);
        }
        Ok(Err(_)) => {}
    }
}

/// Reads into `begin` until the protocol is known; `Incomplete` when the connection ends before.
async fn detect(stream: &mut TcpStream, begin: &mut Vec<u8>) -> std::io::Result<Protocol> {
    let mut limited = (&mut *stream).take(sniff::MAX_BYTES as u64);
    loop {
        if limited.read_buf(begin).await? == 0 {
            return Ok(Protocol::Incomplete);
        }
        match sniff::detect(begin) {
            Protocol::Incomplete => {}
            known => return Ok(known),
        }
    }
}
