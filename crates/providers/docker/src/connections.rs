//! The connections of this server to the agents of its sandboxes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use stacyvm_provider::AgentSandbox;
use stacyvm_types::SandboxId;

use crate::limits::ContainerLimits;

/// Every sandbox that this server has created or opened, and not removed.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    by_id: Mutex<HashMap<SandboxId, Arc<SandboxConnection>>>,
}

/// One sandbox as this server knows it.
#[derive(Debug)]
pub(crate) struct SandboxConnection {
    pub(crate) sandbox: Arc<AgentSandbox>,
    pub(crate) limits: ContainerLimits,
    /// The newest reading of the processor time, in nanoseconds, and when it was taken.
    pub(crate) cpu_reading: Mutex<Option<(Instant, u64)>>,
}

impl Connections {
    pub(crate) fn insert(
        &self,
        id: &SandboxId,
        sandbox: Arc<AgentSandbox>,
        limits: ContainerLimits,
    ) {
        let connection = SandboxConnection {
            sandbox,
            limits,
            cpu_reading: Mutex::default(),
        };
        self.by_id.lock().insert(id.clone(), Arc::new(connection));
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Option<Arc<SandboxConnection>> {
        self.by_id.lock().get(id).cloned()
    }

    pub(crate) fn remove(&self, id: &SandboxId) {
        self.by_id.lock().remove(id);
    }
}
