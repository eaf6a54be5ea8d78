//! The orchestrator's front: one method per thing that can be asked, in a file per topic.
//!
//! Owns nothing itself; it finds the sandbox, checks who asks, and hands the work to the sandbox's
//! task or straight to the sandbox.

mod events;
mod inside;
mod network;
mod providers;
mod quotas;
mod sandboxes;
mod start;

use std::sync::Arc;

use crate::state::OrchestratorState;

pub use providers::ProviderDetail;

/// Everything that can be asked about sandboxes. Clones are handles to the same thing.
///
/// Dropping the last handle stops nothing; `shutdown` does.
#[derive(Clone, Debug)]
pub struct Orchestrator {
    pub(crate) state: Arc<OrchestratorState>,
}
