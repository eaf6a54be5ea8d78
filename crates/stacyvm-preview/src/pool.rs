//! The pools of all sandboxes whose previews were opened, each kept until its sandbox ends.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use stacyvm_orchestrator::Ports;
use stacyvm_types::SandboxId;

use crate::Tasks;
use crate::connections::{IDLE_TIMEOUT, SandboxConnections};

/// The connections into all sandboxes.
#[derive(Debug)]
pub(crate) struct ConnectionPool {
    sandboxes: Arc<Mutex<HashMap<SandboxId, Arc<SandboxConnections>>>>,
    max_connections: usize,
    tasks: Tasks,
}

impl ConnectionPool {
    /// At most `max_connections` are opened into each sandbox.
    pub(crate) fn new(max_connections: usize, tasks: Tasks) -> Self {
        Self {
            sandboxes: Arc::default(),
            max_connections,
            tasks,
        }
    }

    /// The connections into a running sandbox.
    pub(crate) fn sandbox(&self, id: &SandboxId, ports: &Ports) -> Arc<SandboxConnections> {
        let mut sandboxes = self.sandboxes.lock();
        if let Some(connections) = sandboxes.get(id)
            && !connections.ports.is_ended()
        {
            return Arc::clone(connections);
        }
        let connections = SandboxConnections::new(ports.clone(), self.max_connections);
        let connections = Arc::new(connections);
        sandboxes.insert(id.clone(), Arc::clone(&connections));
        drop(sandboxes);
        self.close_with_sandbox(id.clone(), Arc::clone(&connections));
        connections
    }

    /// Closes idle connections from time to time, and all of them when the sandbox or the server
    /// ends.
    fn close_with_sandbox(&self, id: SandboxId, connections: Arc<SandboxConnections>) {
        let sandboxes = Arc::clone(&self.sandboxes);
        let shutdown = self.tasks.shutdown.clone();
        self.tasks.tracker.spawn(async move {
            loop {
                tokio::select! {
                    () = connections.ports.ended() => break,
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(IDLE_TIMEOUT / 2) => connections.close_idle(),
                }
            }
            connections.close();
            let mut sandboxes = sandboxes.lock();
            // A sandbox of the same id may have taken its place.
            let is_current = |current: &Arc<_>| Arc::ptr_eq(current, &connections);
            if sandboxes.get(&id).is_some_and(is_current) {
                sandboxes.remove(&id);
            }
        });
    }
}
