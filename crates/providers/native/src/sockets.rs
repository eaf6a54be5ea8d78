//! Sockets of the server inside a sandbox's network.
//!
//! A socket stays in the network namespace of the thread that made it. So one thread enters a
//! sandbox's network, makes a socket, and returns; bytes to a port there then bypass the agent.
//! Without root threads may not do that: there is no such thread, and the agent forwards the bytes.
//! The rule: no program inside ever gets a descriptor of such a socket, so none can make it block.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use stacyvm_provider::PortConnection;
use stacyvm_provider::ops::OpError;
use stacyvm_sys::namespaces::{self, Kind};
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, oneshot};

use crate::boxes::BoxEntry;

/// How many requests may wait for the thread; each takes microseconds.
const MAX_WAITING: usize = 64;

/// A request for one socket.
struct SocketRequest {
    network: OwnedFd,
    family: AddressFamily,
    reply: oneshot::Sender<io::Result<OwnedFd>>,
}

/// Sends requests to the thread, which ends with the last copy of this.
#[derive(Clone, Debug)]
pub(crate) struct SocketFactory {
    requests: mpsc::Sender<SocketRequest>,
}

impl SocketFactory {
    /// Starts the thread; none where threads may not change networks.
    pub(crate) fn start() -> Option<Self> {
        let (requests, mut receiver) = mpsc::channel::<SocketRequest>(MAX_WAITING);
        let (started, start) = std::sync::mpsc::sync_channel(1);
        let serve = move || {
            let own = match own_namespace() {
                Ok(own) => own,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            while let Some(request) = receiver.blocking_recv() {
                let made = make(&request);
                // At once: the network exists as long as this thread is in it.
                let returned = namespaces::enter(&own);
                // The request may have been given up.
                let _ = request.reply.send(made);
                if let Err(error) = returned {
                    tracing::error!(%error, "sockets in sandboxes cannot be made any more");
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("sandbox-ports".to_owned());
        match thread.spawn(serve).map(|_| start.recv()) {
            Ok(Ok(Ok(()))) => Some(Self { requests }),
            Ok(Ok(Err(error))) => {
                tracing::debug!(%error, "agents carry the bytes of ports");
                None
            }
            _ => None,
        }
    }

    /// Connects to a port on a box's loopback; none when there is no way but the agent's.
    pub(crate) async fn connect(
        &self,
        entry: &Arc<BoxEntry>,
        port: u16,
    ) -> Option<Result<PortConnection, OpError>> {
        let process = entry.process()?;
        let network = namespaces::network_namespace_of(process.pid).ok()?;
        // Checked after the namespace was opened: while the process lives, its number is its own.
        if process.ended() {
            let message = "what ran in the sandbox has ended";
            return Some(Err(OpError::Gone(message.to_owned())));
        }
        let again = network.try_clone().ok()?;
        let first = self.socket(network, AddressFamily::INET).await?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let refused = match first.connect(address).await {
            Ok(stream) => return Some(Ok(ready(stream))),
            Err(error) => error,
        };
        if let Some(second) = self.socket(again, AddressFamily::INET6).await {
            let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
            if let Ok(stream) = second.connect(address).await {
                return Some(Ok(ready(stream)));
            }
        }
        Some(Err(match refused.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable => {
                OpError::NotFound(format!("nothing listens on port {port} of the sandbox"))
            }
            kind => OpError::Failed(format!("connect to port {port}: {kind}")),
        }))
    }

    async fn socket(&self, network: OwnedFd, family: AddressFamily) -> Option<TcpSocket> {
        let (reply, answer) = oneshot::channel();
        let request = SocketRequest {
            network,
            family,
            reply,
        };
        self.requests.send(request).await.ok()?;
        let socket = answer.await.ok()?.ok()?;
        Some(TcpSocket::from_std_stream(StdStream::from(socket)))
    }
}

/// The thread's own network namespace; an error where the thread may not return to it.
fn own_namespace() -> io::Result<OwnedFd> {
    let own = namespaces::current(Kind::Network)?;
    namespaces::enter(&own)?;
    Ok(own)
}

fn make(request: &SocketRequest) -> io::Result<OwnedFd> {
    namespaces::enter(&request.network)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(
        request.family,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

fn ready(stream: tokio::net::TcpStream) -> PortConnection {
    // Small pieces are sent at once instead of together. Without it the connection still works.
    let _ = stream.set_nodelay(true);
    PortConnection::socket(stream)
}
