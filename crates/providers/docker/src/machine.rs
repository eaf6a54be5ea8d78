//! What the engine and its machine can do, as the newest probe has found it.

use stacyvm_types::Isolation;

use crate::agent::AgentSource;
use crate::runtimes::{self, Runtime, RuntimeKind};

/// One engine and its machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The engine's id, by which another machine is noticed.
    pub(crate) engine_id: String,
    /// The release of the machine's kernel.
    pub(crate) kernel: String,
    pub(crate) cores: Option<u32>,
    /// Every registered runtime.
    pub(crate) registered: Vec<Runtime>,
    /// The runtimes that a spawn may select, the configured one first, each with its proven level
    /// of isolation.
    pub(crate) offered: Vec<(Runtime, Isolation)>,
    /// The image that trial containers are made from, by its id.
    pub(crate) trial_image: String,
    /// How the agent gets into a container.
    pub(crate) agent: AgentSource,
    /// Whether the storage driver limits what a container writes.
    pub(crate) disk_limit: bool,
    /// What does not work, one sentence each.
    pub(crate) degradations: Vec<String>,
}

impl Machine {
    /// The runtime that a spawn's level of isolation selects, with its proven level.
    pub(crate) fn runtime_for(&self, wanted: Isolation) -> Option<&(Runtime, Isolation)> {
        self.offered
            .iter()
            .find(|(_, level)| level.satisfies(wanted))
    }

    /// The kind of the runtime that a container was made with.
    pub(crate) fn kind_of(&self, runtime: &str) -> RuntimeKind {
        runtimes::configured(&self.registered, runtime)
            .map_or(RuntimeKind::Plain, |found| found.kind)
    }
}
