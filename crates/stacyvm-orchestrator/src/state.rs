//! The state of a running orchestrator: settings, store, clock, providers, registry and the rest,
//! and who may see which sandbox of it.
//!
//! Everything that it holds stands below it; the tasks that work on it stand above it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use stacyvm_store::Store;
use stacyvm_types::{OwnerId, SandboxId};
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::error::{Error, PAUSED};
use crate::events::Events;
use crate::expiry::Expiry;
use crate::handle::SandboxHandle;
use crate::health::ProviderSlot;
use crate::keys::Keys;
use crate::lifecycle::Phase;
use crate::lifetime::Lifetime;
use crate::metrics::Totals;
use crate::queue::SpawnQueue;
use crate::quotas::{Quotas, tightened};
use crate::registry::{Entry, Registry};
use crate::settings::{Caller, Settings};

pub(crate) struct OrchestratorState {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) providers: BTreeMap<String, Arc<ProviderSlot>>,
    pub(crate) registry: Registry,
    pub(crate) expiry: Expiry,
    pub(crate) keys: Arc<Keys>,
    pub(crate) quotas: Quotas,
    pub(crate) queue: SpawnQueue,
    /// Boxes that are made at once; none means no limit.
    pub(crate) creates: Option<Semaphore>,
    pub(crate) totals: Totals,
    pub(crate) events: Arc<Events>,
    /// Draws the number of a new id.
    pub(crate) draw: Box<dyn Fn() -> u32 + Send + Sync>,
    pub(crate) started: Instant,
    pub(crate) lifetime: Lifetime,
}

impl fmt::Debug for OrchestratorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrchestratorState")
            .field("settings", &self.settings)
            .field("providers", &self.providers.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl OrchestratorState {
    /// The settings as they hold for this owner. Everything that checks a request against a limit
    /// starts here.
    pub(crate) fn settings_for(&self, owner: Option<&OwnerId>) -> Cow<'_, Settings> {
        match owner.and_then(|owner| self.quotas.get(owner)) {
            None => Cow::Borrowed(&self.settings),
            Some(quota) => Cow::Owned(tightened(&self.settings, &quota)),
        }
    }

    /// A handle to a sandbox.
    pub(crate) async fn open(&self, entry: &Arc<Entry>) -> Result<SandboxHandle, Error> {
        SandboxHandle::open(Arc::clone(entry), Arc::clone(&self.events)).await
    }

    /// Whether `caller` may know of this sandbox. In pool mode owners see their own only; a caller
    /// without an owner is the operator.
    pub(crate) fn may_see(&self, caller: &Caller, entry: &Entry) -> bool {
        !self.settings.pool_mode || caller.owner.is_none() || caller.owner == entry.facts.owner
    }

    /// The sandbox, when it exists for this caller.
    pub(crate) fn find(&self, caller: &Caller, id: &SandboxId) -> Result<Arc<Entry>, Error> {
        self.registry
            .get(id)
            .filter(|entry| entry.state().is_some() && self.may_see(caller, entry))
            .ok_or_else(|| Error::no_sandbox(id))
    }

    /// The sandbox, when it exists for this caller and can be used now; says why not.
    pub(crate) fn find_running(
        &self,
        caller: &Caller,
        id: &SandboxId,
    ) -> Result<Arc<Entry>, Error> {
        let entry = self.find_alive(caller, id)?;
        match entry.view().phase {
            Phase::Paused => Err(Error::Conflict(format!("sandbox {id} {PAUSED}"))),
            _ => Ok(entry),
        }
    }

    /// The sandbox, when it exists for this caller and runs or is paused; says why not.
    pub(crate) fn find_alive(&self, caller: &Caller, id: &SandboxId) -> Result<Arc<Entry>, Error> {
        let entry = self.find(caller, id)?;
        let why = match entry.view().phase {
            Phase::Running | Phase::Paused => return Ok(entry),
            Phase::Creating => "is still being created",
            Phase::Stopped => &format!("is stopped: {}", entry.end_in_words()),
            Phase::Lost => "is in state error: its provider has lost it",
            Phase::Destroying => "is being destroyed",
            Phase::Destroyed => return Err(Error::no_sandbox(id)),
        };
        Err(Error::Conflict(format!("sandbox {id} {why}")))
    }
}
