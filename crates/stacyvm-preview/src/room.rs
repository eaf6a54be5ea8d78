//! One sandbox's connections: how many there may be, and those that wait to be used again.
//!
//! Its rule: a connection is used again only after both of its bodies have ended well. Everything
//! here goes with the sandbox.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use stacyvm_orchestrator::Ports;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::body::Outgoing;

/// Connections to one port that wait to be used again.
const IDLE_OF_PORT: usize = 64;
/// How long one waits; servers inside mostly close them sooner.
pub(crate) const IDLE_TIME: Duration = Duration::from_secs(30);

/// A sandbox's connections.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) ports: Ports,
    limit: Arc<Semaphore>,
    inner: Mutex<HashMap<u16, Port>>,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Port {
    idle: Vec<Idle>,
    /// Whether something has listened there.
    seen: bool,
    /// Whose turn it is to find out whether something listens.
    turn: Arc<Semaphore>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Outgoing>,
    since: Instant,
}

impl Room {
    pub(crate) fn new(ports: Ports, max_connections: usize) -> Self {
        Self {
            ports,
            limit: Arc::new(Semaphore::new(max_connections)),
            inner: Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// The right to one more connection; none when there are too many.
    pub(crate) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.limit).try_acquire_owned().ok()
    }

    /// A connection that was used before and lives.
    pub(crate) fn idle(&self, port: u16) -> Option<SendRequest<Outgoing>> {
        let mut inner = self.lock();
        let idle = &mut inner.get_mut(&port)?.idle;
        // The newest first: what the server inside closes soonest is used last.
        while let Some(Idle { sender, since }) = idle.pop() {
            if !sender.is_closed() && since.elapsed() < IDLE_TIME {
                return Some(sender);
            }
        }
        None
    }

    /// Notes that something listens.
    pub(crate) fn saw(&self, port: u16) {
        self.lock().entry(port).or_default().seen = true;
    }

    /// Whether something has ever listened.
    pub(crate) fn has_seen(&self, port: u16) -> bool {
        self.lock().get(&port).is_some_and(|port| port.seen)
    }

    /// Those who wait for a port to open ask one after the other.
    pub(crate) fn turn(&self, port: u16) -> Arc<Semaphore> {
        Arc::clone(&self.lock().entry(port).or_default().turn)
    }

    fn keep(&self, port: u16, sender: SendRequest<Outgoing>) {
        if sender.is_closed() || self.closed.load(Ordering::Acquire) {
            return;
        }
        let mut inner = self.lock();
        let idle = &mut inner.entry(port).or_default().idle;
        if idle.len() >= IDLE_OF_PORT {
            idle.remove(0);
        }
        let since = Instant::now();
        idle.push(Idle { sender, since });
    }

    /// Ends connections that have waited too long.
    pub(crate) fn sweep(&self) {
        for port in self.lock().values_mut() {
            port.idle
                .retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE_TIME);
        }
    }

    /// Ends all that wait, and keeps none from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for port in self.lock().values_mut() {
            port.idle.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Port>> {
        // Nothing in between could leave it half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Port {
    fn default() -> Self {
        Self {
            idle: Vec::new(),
            seen: false,
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

/// A connection in use, and its place among those of its sandbox.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) room: Arc<Room>,
    pub(crate) port: u16,
    pub(crate) sender: SendRequest<Outgoing>,
    pub(crate) sent: Arc<AtomicBool>,
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// The answer has ended well: the next request may have the connection, if this one's body has
    /// gone in whole.
    pub(crate) fn give_back(self) {
        if self.sent.load(Ordering::Acquire) {
            self.room.keep(self.port, self.sender);
        }
    }
}
