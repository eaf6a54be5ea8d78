//! Sockets of the server's own inside a sandbox's network.
//!
//! A socket belongs to the network of the thread that made it, for good. So one thread enters a
//! sandbox's network, makes a socket, and comes back; connected to a port there, its bytes pass no
//! agent. Where threads may not do that (without root) there is no such thread, and the agent
//! carries the bytes. Its rule: nothing inside ever gets a descriptor of such a socket, so nothing
//! inside can make it block.

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

/// Requests that may wait for the thread; each takes microseconds.
const WAITING: usize = 64;

/// One socket that is wanted.
struct Wanted {
    network: OwnedFd,
    family: AddressFamily,
    reply: oneshot::Sender<io::Result<OwnedFd>>,
}

/// The way to the thread, which ends when the last way to it is gone.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    wanted: mpsc::Sender<Wanted>,
}

impl Ports {
    /// Starts the thread; none where threads may not change networks.
    pub(crate) fn start() -> Option<Self> {
        let (wanted, mut receiver) = mpsc::channel::<Wanted>(WAITING);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let serve = move || {
            let home = match home() {
                Ok(home) => home,
                Err(error) => {
                    // Whoever started the thread waits for this.
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let _ = tell.send(Ok(()));
            while let Some(wanted) = receiver.blocking_recv() {
                let made = make(&wanted);
                // Back at once: a network stays as long as anybody is in it.
                let back = namespaces::enter(&home);
                // Whoever asked may have gone away.
                let _ = wanted.reply.send(made);
                if let Err(error) = back {
                    tracing::error!(%error, "sockets in sandboxes cannot be made any more");
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("sandbox-ports".to_owned());
        match thread.spawn(serve).map(|_| told.recv()) {
            Ok(Ok(Ok(()))) => Some(Self { wanted }),
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
        // Only now: while it lives, its number is nobody else's.
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
        let wanted = Wanted {
            network,
            family,
            reply,
        };
        self.wanted.send(wanted).await.ok()?;
        let socket = answer.await.ok()?.ok()?;
        Some(TcpSocket::from_std_stream(StdStream::from(socket)))
    }
}

/// The thread's own network, after finding out that it may be entered.
fn home() -> io::Result<OwnedFd> {
    let home = namespaces::current(Kind::Network)?;
    namespaces::enter(&home)?;
    Ok(home)
}

fn make(wanted: &Wanted) -> io::Result<OwnedFd> {
    namespaces::enter(&wanted.network)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(wanted.family, SocketType::STREAM, flags, None)?)
}

fn ready(stream: tokio::net::TcpStream) -> PortConnection {
    // Small pieces go out at once; without it they wait for each other. Not worth failing for.
    let _ = stream.set_nodelay(true);
    PortConnection::socket(stream)
}
