//! The connections into one sandbox: how many there may be, and those that are idle.
//!
//! Its rule: a connection is used again only after both of its bodies have ended well. All idle
//! connections are closed when the sandbox ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use stacyvm_orchestrator::Ports;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::request_body::RequestBody;

/// Idle connections to one port.
const MAX_IDLE_PER_PORT: usize = 64;
/// How long a connection stays idle; servers in sandboxes mostly close them sooner.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The connections into one sandbox.
#[derive(Debug)]
pub(crate) struct SandboxConnections {
    pub(crate) ports: Ports,
    limit: Arc<Semaphore>,
    by_port: Mutex<HashMap<u16, PortConnections>>,
    closed: AtomicBool,
}

/// The connections to one port of the sandbox.
#[derive(Debug)]
struct PortConnections {
    idle: Vec<IdleConnection>,
    /// Whether a server was ever reached at the port.
    reached: bool,
    /// Held by the one request that tries to connect while the port is closed.
    connect_lock: Arc<Semaphore>,
}

#[derive(Debug)]
struct IdleConnection {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

impl IdleConnection {
    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && self.since.elapsed() < IDLE_TIMEOUT
    }
}

impl SandboxConnections {
    /// At most `max_connections` at once, idle ones not counted.
    pub(crate) fn new(ports: Ports, max_connections: usize) -> Self {
        Self {
            ports,
            limit: Arc::new(Semaphore::new(max_connections)),
            by_port: Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// The right to one more connection; none when there are too many.
    pub(crate) fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.limit).try_acquire_owned().ok()
    }

    /// Takes an idle connection that is still usable.
    pub(crate) fn take_idle(&self, port: u16) -> Option<SendRequest<RequestBody>> {
        let mut by_port = self.by_port.lock();
        let idle = &mut by_port.get_mut(&port)?.idle;
        // The newest first, because the server closes the oldest first.
        while let Some(connection) = idle.pop() {
            if connection.is_usable() {
                return Some(connection.sender);
            }
        }
        None
    }

    /// Notes that a server was reached at the port.
    pub(crate) fn mark_reached(&self, port: u16) {
        self.by_port.lock().entry(port).or_default().reached = true;
    }

    /// Whether a server was ever reached at the port.
    pub(crate) fn was_reached(&self, port: u16) -> bool {
        let by_port = self.by_port.lock();
        by_port.get(&port).is_some_and(|port| port.reached)
    }

    /// The lock that requests hold while they try to connect to a closed port, so that one of them
    /// tries at a time.
    pub(crate) fn connect_lock(&self, port: u16) -> Arc<Semaphore> {
        Arc::clone(&self.by_port.lock().entry(port).or_default().connect_lock)
    }

    fn put_idle(&self, port: u16, sender: SendRequest<RequestBody>) {
        if sender.is_closed() || self.closed.load(Ordering::Acquire) {
            return;
        }
        let mut by_port = self.by_port.lock();
        let idle = &mut by_port.entry(port).or_default().idle;
        if idle.len() >= MAX_IDLE_PER_PORT {
            idle.remove(0);
        }
        let since = Instant::now();
        idle.push(IdleConnection { sender, since });
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn close_idle(&self) {
        for port in self.by_port.lock().values_mut() {
            port.idle.retain(IdleConnection::is_usable);
        }
    }

    /// Closes all idle connections, and keeps none from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for port in self.by_port.lock().values_mut() {
            port.idle.clear();
        }
    }
}

impl Default for PortConnections {
    fn default() -> Self {
        Self {
            idle: Vec::new(),
            reached: false,
            connect_lock: Arc::new(Semaphore::new(1)),
        }
    }
}

/// A connection in use, and its permit among those of its sandbox.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) connections: Arc<SandboxConnections>,
    pub(crate) port: u16,
    pub(crate) sender: SendRequest<RequestBody>,
    /// Whether the whole request was sent.
    pub(crate) sent: Arc<AtomicBool>,
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Ends the lease after the answer has ended well. The next request may use the connection if
    /// this one was sent whole.
    pub(crate) fn give_back(self) {
        if self.sent.load(Ordering::Acquire) {
            self.connections.put_idle(self.port, self.sender);
        }
    }
}
