//! What all parts of one provider share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{InspectContainerOptions, RemoveContainerOptions};
use stacyvm_provider::{AgentSandbox, NetworkMode};
use stacyvm_types::SandboxId;

use crate::engine::{Engine, EngineError, QUICK};
use crate::machine::Machine;
use crate::network::Network;
use crate::parameters::House;
use crate::settings::DockerSettings;
use crate::warm;
use crate::watch::Watch;

/// Open files that a process may have where the engine may not give more: without
/// CAP_SYS_RESOURCE the kernel's own limit of a process is the end.
pub(crate) const FEWER_FILES: u64 = 20_000;

/// One provider's parts.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) settings: DockerSettings,
    pub(crate) house: House,
    pub(crate) network: Network,
    pub(crate) watch: Watch,
    /// What the engine is, as it was last looked at.
    pub(crate) machine: Mutex<Option<Arc<Machine>>>,
    /// Held while the engine is looked at.
    pub(crate) examining: tokio::sync::Mutex<()>,
    /// Sandboxes that this server has a connection to, or had.
    boxes: Mutex<HashMap<SandboxId, Arc<Known>>>,
    most_files: AtomicU64,
    pub(crate) warm: warm::Pool,
}

/// What is remembered of one sandbox.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) sandbox: Arc<AgentSandbox>,
    pub(crate) limits: Limits,
    /// When its processor time was last read, and what it was, nanoseconds.
    pub(crate) cpu_seen: Mutex<Option<(Instant, u64)>>,
}

/// The limits that a container has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// Bytes.
    pub(crate) memory: u64,
    /// Cores.
    pub(crate) cpus: f64,
    /// Processes and threads.
    pub(crate) pids: u64,
    /// Bytes; 0 is no limit of its own.
    pub(crate) disk: u64,
}

impl Inner {
    pub(crate) fn new(engine: Arc<Engine>, settings: DockerSettings, house: House) -> Self {
        let names = house.names.clone();
        let network = settings.network.clone();
        Self {
            network: Network::new(Arc::clone(&engine), names.clone(), network),
            watch: Watch::new(Arc::clone(&engine), names),
            engine,
            settings,
            house,
            machine: Mutex::default(),
            examining: tokio::sync::Mutex::default(),
            boxes: Mutex::default(),
            most_files: AtomicU64::new(u64::MAX),
            warm: warm::Pool::default(),
        }
    }

    /// How a sandbox is connected that says nothing about it.
    pub(crate) fn default_network(&self) -> NetworkMode {
        self.network.default_mode()
    }

    /// What the engine was found to be, without asking it.
    pub(crate) fn known_machine(&self) -> Option<Arc<Machine>> {
        locked(&self.machine).clone()
    }

    pub(crate) fn remember(&self, id: &SandboxId, sandbox: Arc<AgentSandbox>, limits: Limits) {
        let known = Known {
            sandbox,
            limits,
            cpu_seen: Mutex::default(),
        };
        locked(&self.boxes).insert(id.clone(), Arc::new(known));
    }

    pub(crate) fn known(&self, id: &SandboxId) -> Option<Arc<Known>> {
        locked(&self.boxes).get(id).cloned()
    }

    pub(crate) fn forget(&self, id: &SandboxId) {
        locked(&self.boxes).remove(id);
    }

    /// Open files that a process can be given at most, as far as is known.
    pub(crate) fn most_files(&self) -> u64 {
        self.most_files.load(Ordering::Relaxed)
    }

    /// The engine could not give more; true for who finds it out.
    pub(crate) fn lower_most_files(&self) -> bool {
        self.most_files.swap(FEWER_FILES, Ordering::Relaxed) != FEWER_FILES
    }

    /// All that the engine says about a container; none when there is none of this name.
    pub(crate) async fn inspect(
        &self,
        name: &str,
    ) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let name = name.to_owned();
        let inspected = self
            .engine
            .ask("look at the container", QUICK, |docker| async move {
                let options = None::<InspectContainerOptions>;
                docker.inspect_container(&name, options).await
            });
        match inspected.await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Ends a container at once and takes its unnamed volumes along.
pub(crate) fn removal() -> RemoveContainerOptions {
    RemoveContainerOptions {
        force: true,
        v: true,
        ..RemoveContainerOptions::default()
    }
}

/// Locks what no holder leaves half changed.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
