//! One connection of a sandbox through the proxy: which sandbox opened it, what it may reach, and
//! how its refusals are reported.

use std::net::SocketAddr;
use std::sync::Arc;

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_nodelay};
use stacyvm_types::HostName;
use tokio::net::TcpStream;

use crate::control::{Limits, Reason};
use crate::dial::{DialError, Dialer};
use crate::notices::NoticeSender;
use crate::sandboxes::Sandbox;

/// What all connections of the proxy share.
#[derive(Debug)]
pub(crate) struct ProxyContext {
    pub(crate) dialer: Dialer,
    pub(crate) notices: NoticeSender,
    pub(crate) limits: Limits,
}

/// A connection that a sandbox opened and that was redirected to the proxy.
#[derive(Debug)]
pub(super) struct SandboxConnection {
    pub(super) context: Arc<ProxyContext>,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) source: SocketAddr,
    /// Where the sandbox wanted to connect to; of this only the port is believed.
    pub(super) destination: SocketAddr,
}

impl SandboxConnection {
    /// Whether the sandbox may reach this host.
    pub(super) fn allows(&self, host: &HostName) -> bool {
        self.sandbox.allows(self.source.ip(), host)
    }

    /// Reports that the connection to `target` was refused.
    pub(super) fn refused(&self, target: &str, reason: Reason) {
        let port = Some(self.destination.port());
        self.context
            .notices
            .refused(&self.sandbox, target, port, reason);
    }

    /// As [`Self::refused`], when the connection named no host.
    pub(super) fn refused_address(&self, reason: Reason) {
        let (address, port) = (self.destination.ip(), self.destination.port());
        self.context
            .notices
            .refused_address(&self.sandbox, address, port, reason);
    }

    /// Connects to a host that the sandbox may reach, at the port that it wanted.
    pub(super) async fn dial(&self, host: &HostName) -> Result<TcpStream, DialError> {
        let port = self.destination.port();
        let dialled = self.context.dialer.dial(host, port).await;
        match &dialled {
            Ok(stream) => set_options(stream),
            Err(DialError::Refused(..)) => self.refused(&host.to_string(), Reason::Address),
            Err(DialError::Unresolved(_) | DialError::Unreachable(..)) => {}
        }
        dialled
    }
}

/// Sends small writes at once, and notices peers that vanished. A connection works without either,
/// so failures are ignored.
pub(super) fn set_options(stream: &TcpStream) {
    let _ = set_tcp_nodelay(stream, true);
    let _ = set_socket_keepalive(stream, true);
}
