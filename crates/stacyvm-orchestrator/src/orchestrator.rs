//! The orchestrator's front: one method per thing that can be asked.
//!
//! Owns nothing itself; it finds the sandbox, checks who asks, and hands the work to its owner
//! task or straight to the sandbox.

mod quotas;
mod start;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use stacyvm_provider::ops::OpError;
use stacyvm_types::{
    Admission, ExecRequest, ExecResponse, ProviderInfo, Sandbox, SandboxId, SandboxState,
    SandboxStats, SpawnRequest,
};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::health::{self, ProviderSlot};
use crate::metrics::Operation;
use crate::operation_error::{public_error, silent};
use crate::registry::Entry;
use crate::sandbox::{Command, Why};
use crate::shared::Shared;
use crate::{
    Caller, Error, Interactive, ListFilter, MetricsSnapshot, RunningExec, SandboxHandle, admission,
    command, exec, spawn,
};

/// How long a backend may take to measure one box.
const STATS: Duration = Duration::from_secs(10);
/// How long an agent may take to hand out log lines.
pub(crate) const LOGS: Duration = Duration::from_secs(10);

/// One provider with what only its own page shows.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderDetail {
    /// What the listing shows too.
    pub info: ProviderInfo,
    /// Living sandboxes of ours on it.
    pub sandbox_count: u64,
    /// The image of a spawn that names none.
    pub default_image: String,
    /// What could not be had on this machine, one sentence each.
    pub degradations: Vec<String>,
}

/// Everything that can be asked about sandboxes. Clones are handles to the same thing.
///
/// Dropping the last handle stops nothing; `shutdown` does.
#[derive(Clone, Debug)]
pub struct Orchestrator {
    pub(crate) shared: Arc<Shared>,
}

impl Orchestrator {
    /// Makes a sandbox and returns when it runs. When the returned future is dropped, what was
    /// begun is brought to an end: without a key the sandbox is destroyed, with one it waits for
    /// the request to be repeated.
    ///
    /// # Errors
    /// Whatever the request, a limit, the provider or the store has against it.
    pub async fn spawn(
        &self,
        caller: &Caller,
        request: SpawnRequest,
        idempotency_key: Option<&str>,
    ) -> Result<Sandbox, Error> {
        let _token = self.shared.enter()?;
        let owner = admission::owner(caller, &request)?;
        let spawned = spawn::spawn(&self.shared, caller, request, idempotency_key).await;
        self.shared.noted("spawn", None, owner.as_ref(), spawned)
    }

    /// Whether a spawn would be admitted now. Nothing is made or reserved.
    ///
    /// # Errors
    /// When the request makes no sense; a limit is no error here but the answer.
    pub async fn admission(
        &self,
        caller: &Caller,
        request: SpawnRequest,
    ) -> Result<Admission, Error> {
        let shared = &self.shared;
        let _token = shared.enter()?;
        let owner = admission::owner(caller, &request)?;
        let settings = shared.settings_for(owner.as_ref());
        let plan = admission::Plan::new(&settings, &shared.providers, caller, request);
        let refused = match plan {
            Ok(_) => None,
            Err(Error::ResourceLimit(reason)) => Some(reason),
            Err(error) => return Err(error),
        };
        let counts = shared.registry.counts(owner.as_ref());
        let left = admission::left(shared, owner.as_ref());
        Ok(admission::answer(
            &settings,
            counts,
            owner.is_some(),
            refused,
            shared.queue.has_place(owner.as_ref(), left),
        ))
    }

    /// Living sandboxes, newest first.
    ///
    /// # Errors
    /// None at present.
    pub async fn list(&self, caller: &Caller, filter: ListFilter) -> Result<Vec<Sandbox>, Error> {
        let matches = |entry: &Entry| {
            let facts = &entry.facts;
            let owner = facts.owner.as_ref().map(|owner| owner.as_str());
            self.shared.may_see(caller, entry)
                && filter
                    .state
                    .is_none_or(|state| entry.state() == Some(state))
                && filter
                    .owner
                    .as_deref()
                    .is_none_or(|wanted| owner == Some(wanted))
                && filter
                    .metadata
                    .iter()
                    .all(|(key, value)| facts.metadata.get(key) == Some(value))
        };
        let preview_domain = &self.shared.settings.preview_domain;
        let mut sandboxes: Vec<Sandbox> = self
            .shared
            .registry
            .snapshot()
            .iter()
            .filter(|entry| matches(entry))
            .filter_map(|entry| entry.public(preview_domain))
            .collect();
        sandboxes.sort_by(|one, other| {
            let newest_first = other.created_at.cmp(&one.created_at);
            newest_first.then_with(|| one.id.cmp(&other.id))
        });
        Ok(sandboxes)
    }

    /// One living sandbox.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, caller: &Caller, id: &SandboxId) -> Result<Sandbox, Error> {
        self.shared
            .find(caller, id)?
            .public(&self.shared.settings.preview_domain)
            .ok_or_else(|| Error::no_sandbox(id))
    }

    /// Destroys a sandbox; when it returns nothing of it runs. One that is not there is success.
    /// When the returned future is dropped the sandbox is destroyed all the same.
    ///
    /// # Errors
    /// `NotFound` for another owner's in pool mode; `Provider` when the first attempt failed (it
    /// is tried again until it succeeds).
    pub async fn destroy(&self, caller: &Caller, id: &SandboxId) -> Result<(), Error> {
        let _token = self.shared.enter()?;
        let Some(entry) = self.shared.registry.get(id) else {
            return Ok(());
        };
        if !self.shared.may_see(caller, &entry) {
            return Err(Error::no_sandbox(id));
        }
        destroy(&entry, Why::Asked).await.map(drop)
    }

    /// Destroys what has expired, of those that the caller may see, and says how many.
    ///
    /// # Errors
    /// When it is shutting down; sandboxes that cannot be destroyed are not counted.
    pub async fn prune(&self, caller: &Caller) -> Result<u64, Error> {
        let _token = self.shared.enter()?;
        let now = self.shared.clock.now();
        let mut expired = self.shared.registry.snapshot();
        expired.retain(|entry| {
            entry.view().expires_at <= now
                && !entry.ended.is_cancelled()
                && self.shared.may_see(caller, entry)
        });
        let outcomes = join_all(expired.iter().map(|entry| destroy(entry, Why::Expired))).await;
        let destroyed = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Ok(true)));
        Ok(destroyed.count() as u64)
    }

    /// Lets a sandbox that runs or is paused live until now plus `ttl`, which may be sooner than
    /// before.
    ///
    /// # Errors
    /// `BadRequest`, `ResourceLimit` for the duration; `NotFound`; `Conflict` when it has ended.
    pub async fn extend(
        &self,
        caller: &Caller,
        id: &SandboxId,
        ttl: &str,
    ) -> Result<Sandbox, Error> {
        let _token = self.shared.enter()?;
        let shared = &self.shared;
        let asked = admission::ttl(&shared.settings, ttl);
        shared.noted("extend", None, caller.owner.as_ref(), asked)?;
        let entry = shared.find_alive(caller, id)?;
        let owner = entry.facts.owner.as_ref().or(caller.owner.as_ref());
        let ttl = admission::ttl(&shared.settings_for(owner), ttl);
        let ttl = shared.noted("extend", Some(&entry.facts.id), owner, ttl)?;
        let (reply, answer) = oneshot::channel();
        let gone = || Error::no_sandbox(id);
        let sent = entry.commands.send(Command::Extend {
            ttl,
            reply,
            span: tracing::Span::current(),
        });
        sent.await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// What a running sandbox uses now.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when not running, `Provider` when it cannot be measured.
    pub async fn stats(&self, caller: &Caller, id: &SandboxId) -> Result<SandboxStats, Error> {
        let _token = self.shared.enter()?;
        let entry = self.shared.find_running(caller, id)?;
        let name = &entry.facts.provider;
        let slot = entry
            .slot
            .as_ref()
            .ok_or_else(|| Error::Unavailable(format!("provider {name:?} is not configured")))?;
        let began = Instant::now();
        let measured = timeout(STATS, slot.provider.stats(&entry.facts.id)).await;
        let result = match measured {
            Ok(Ok(stats)) => Ok(stats),
            Ok(Err(stacyvm_provider::ProviderError::NotFound(message))) => {
                Err(public_error(&entry, OpError::Gone(message)))
            }
            Ok(Err(error)) => Err(Error::from_provider(name, error)),
            Err(_) => Err(Error::Provider {
                provider: name.clone(),
                message: format!("it could not measure the sandbox within {STATS:?}"),
                source: None,
            }),
        };
        slot.metrics
            .record(Operation::Stats, began.elapsed(), result.is_err());
        result
    }

    /// The last `lines` lines of what ran in a sandbox, newest last.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when not running, `Provider` when its agent does not answer.
    pub async fn logs(
        &self,
        caller: &Caller,
        id: &SandboxId,
        lines: usize,
    ) -> Result<Vec<String>, Error> {
        let _token = self.shared.enter()?;
        let entry = self.shared.find_running(caller, id)?;
        let sandbox = self.shared.open(&entry).await?;
        let result = timeout(LOGS, sandbox.logs(lines)).await;
        result.unwrap_or_else(|_| Err(public_error(&entry, silent())))
    }

    /// Starts a command and streams what it says. Dropping the result's `events` kills its tree.
    ///
    /// # Errors
    /// Whatever is wrong before the command runs.
    pub async fn exec(
        &self,
        caller: &Caller,
        id: &SandboxId,
        request: ExecRequest,
    ) -> Result<RunningExec, Error> {
        let plain = Interactive::default();
        self.exec_interactive(caller, id, request, plain).await
    }

    /// As [`Self::exec`], with a terminal or an input that stays open, as `interactive` says.
    ///
    /// # Errors
    /// Whatever is wrong before the command runs.
    pub async fn exec_interactive(
        &self,
        caller: &Caller,
        id: &SandboxId,
        request: ExecRequest,
        interactive: Interactive,
    ) -> Result<RunningExec, Error> {
        let pump = self.start_exec(caller, id, request, interactive).await?;
        Ok(exec::stream(&self.shared, pump))
    }

    /// Runs a command to its end and returns what it wrote, under the output cap.
    ///
    /// # Errors
    /// Whatever is wrong before the command runs; `Timeout` when it hit its deadline.
    pub async fn exec_captured(
        &self,
        caller: &Caller,
        id: &SandboxId,
        request: ExecRequest,
    ) -> Result<ExecResponse, Error> {
        let plain = Interactive::default();
        let pump = self.start_exec(caller, id, request, plain).await?;
        exec::capture(pump, self.shared.settings.max_output_bytes).await
    }

    async fn start_exec(
        &self,
        caller: &Caller,
        id: &SandboxId,
        request: ExecRequest,
        interactive: Interactive,
    ) -> Result<exec::Pump, Error> {
        let token = self.shared.enter()?;
        let entry = self.shared.find_running(caller, id)?;
        let owner = entry.facts.owner.as_ref().or(caller.owner.as_ref());
        let started = match command::Plan::new(&self.shared.settings_for(owner), request) {
            Ok(plan) => {
                let plan = plan.connected(interactive);
                exec::start(&self.shared, Arc::clone(&entry), plan, token).await
            }
            Err(error) => Err(error),
        };
        self.shared
            .noted("exec", Some(&entry.facts.id), owner, started)
    }

    /// A handle to a running sandbox: its files, ports and commands.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when not running, `Provider` when its agent does not answer.
    pub async fn sandbox(&self, caller: &Caller, id: &SandboxId) -> Result<SandboxHandle, Error> {
        let _token = self.shared.enter()?;
        let entry = self.shared.find_running(caller, id)?;
        self.shared.open(&entry).await
    }

    /// Every configured provider, sorted by name, with what its last check found.
    pub async fn providers(&self) -> Vec<ProviderInfo> {
        let slots = self.shared.providers.iter();
        slots.map(|(name, slot)| self.info(name, slot)).collect()
    }

    /// One provider.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn provider(&self, name: &str) -> Result<ProviderDetail, Error> {
        let slot = self.shared.providers.get(name).ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            Error::NotFound(format!("provider {name:?} is not configured"))
        })?;
        let entries = self.shared.registry.snapshot();
        let ours = entries.iter().filter(|entry| entry.facts.provider == name);
        Ok(ProviderDetail {
            info: self.info(name, slot),
            sandbox_count: ours.filter(|entry| entry.state().is_some()).count() as u64,
            default_image: slot.provider.default_image().to_owned(),
            degradations: slot.provider.degradations(),
        })
    }

    /// Checks every provider now.
    pub async fn test_providers(&self) -> BTreeMap<String, bool> {
        health::check_all(&self.shared).await;
        let slots = self.shared.providers.iter();
        slots
            .map(|(name, slot)| (name.clone(), slot.healthy()))
            .collect()
    }

    /// Whether a spawn that names no provider would find one that works, from cached health.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), String> {
        let shared = &self.shared;
        if shared.closed.load(Ordering::SeqCst) {
            return Err("shutting down".to_owned());
        }
        let name = &shared.settings.default_provider;
        match shared.providers.get(name) {
            Some(slot) if slot.healthy() => Ok(()),
            Some(slot) => Err(format!(
                "provider {name} is not healthy: {}",
                slot.error().unwrap_or_default()
            )),
            None => Err(format!("provider {name} is not configured")),
        }
    }

    /// Everything counted, at this moment.
    pub fn metrics(&self) -> MetricsSnapshot {
        let shared = &self.shared;
        let states = SandboxState::ALL.into_iter();
        let mut by_state: BTreeMap<SandboxState, u64> = states
            .filter(|state| *state != SandboxState::Destroyed)
            .map(|state| (state, 0))
            .collect();
        let names = shared.providers.keys();
        let mut by_provider: BTreeMap<String, u64> = names.map(|name| (name.clone(), 0)).collect();
        let mut active = 0;
        for entry in shared.registry.snapshot() {
            let Some(state) = entry.state() else { continue };
            active += 1;
            *by_state.entry(state).or_default() += 1;
            *by_provider.entry(entry.facts.provider.clone()).or_default() += 1;
        }
        let totals = &shared.totals;
        let slots = shared.providers.iter();
        MetricsSnapshot {
            uptime_seconds: shared.started.elapsed().as_secs_f64(),
            active_sandboxes: active,
            total_sandboxes: totals.sandboxes.load(Ordering::Relaxed),
            by_state,
            by_provider,
            active_execs: totals.active_execs.load(Ordering::Relaxed),
            expired: totals.expired.load(Ordering::Relaxed),
            reconcile_actions: totals.reconcile_actions.load(Ordering::Relaxed),
            operations: slots
                .flat_map(|(name, slot)| slot.metrics.snapshot(name))
                .collect(),
        }
    }

    fn info(&self, name: &str, slot: &ProviderSlot) -> ProviderInfo {
        slot.info(name == self.shared.settings.default_provider)
    }
}

/// Tells the owner and waits for the first attempt; false when it was not to be done after all.
async fn destroy(entry: &Entry, why: Why) -> Result<bool, Error> {
    let (reply, answer) = oneshot::channel();
    let command = Command::Destroy {
        why,
        reply: Some(reply),
        span: tracing::Span::current(),
    };
    // An owner that has ended has either destroyed its sandbox, or stopped with the server.
    let ended = |entry: &Entry| match entry.view().phase {
        crate::lifecycle::Phase::Destroyed => Ok(true),
        _ => Err(Error::shutting_down()),
    };
    if entry.commands.send(command).await.is_err() {
        return ended(entry);
    }
    answer.await.unwrap_or_else(|_| ended(entry))
}
