//! The life of sandboxes: spawned, listed, extended, destroyed.

use futures_util::future::join_all;
use stacyvm_types::{Admission, Sandbox, SandboxId, SpawnRequest};
use tokio::sync::oneshot;

use crate::error::Error;
use crate::lifecycle::Phase;
use crate::orchestrator::Orchestrator;
use crate::registry::Entry;
use crate::sandbox::command::{Command, DestroyReason};
use crate::settings::{Caller, ListFilter};
use crate::{admission, spawn};

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
        let _token = self.state.lifetime.enter()?;
        let owner = admission::owner(caller, &request)?;
        let spawned = spawn::spawn(&self.state, caller, request, idempotency_key).await;
        self.state
            .report_limits("spawn", None, owner.as_ref(), spawned)
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
        let state = &self.state;
        let _token = state.lifetime.enter()?;
        let owner = admission::owner(caller, &request)?;
        let settings = state.settings_for(owner.as_ref());
        let plan = admission::Plan::new(&settings, &state.providers, caller, request);
        let refused = match plan {
            Ok(_) => None,
            Err(Error::ResourceLimit(reason)) => Some(reason),
            Err(error) => return Err(error),
        };
        let counts = state.registry.counts(owner.as_ref());
        let left = admission::left(state, owner.as_ref());
        Ok(admission::answer(
            &settings,
            counts,
            owner.is_some(),
            refused,
            state.queue.has_slot(owner.as_ref(), left),
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
            self.state.may_see(caller, entry)
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
        let preview_domain = &self.state.settings.preview_domain;
        let mut sandboxes: Vec<Sandbox> = self
            .state
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
        self.state
            .find(caller, id)?
            .public(&self.state.settings.preview_domain)
            .ok_or_else(|| Error::no_sandbox(id))
    }

    /// Destroys a sandbox; when it returns nothing of it runs. One that is not there is success.
    /// When the returned future is dropped the sandbox is destroyed all the same.
    ///
    /// # Errors
    /// `NotFound` for another owner's in pool mode; `Provider` when the first attempt failed (it
    /// is tried again until it succeeds).
    pub async fn destroy(&self, caller: &Caller, id: &SandboxId) -> Result<(), Error> {
        let _token = self.state.lifetime.enter()?;
        let Some(entry) = self.state.registry.get(id) else {
            return Ok(());
        };
        if !self.state.may_see(caller, &entry) {
            return Err(Error::no_sandbox(id));
        }
        destroy(&entry, DestroyReason::Asked).await.map(drop)
    }

    /// Destroys what has expired, of those that the caller may see, and says how many.
    ///
    /// # Errors
    /// When it is shutting down; sandboxes that cannot be destroyed are not counted.
    pub async fn prune(&self, caller: &Caller) -> Result<u64, Error> {
        let _token = self.state.lifetime.enter()?;
        let now = self.state.clock.now();
        let mut expired = self.state.registry.snapshot();
        expired.retain(|entry| {
            entry.view().expires_at <= now
                && !entry.ended.is_cancelled()
                && self.state.may_see(caller, entry)
        });
        let outcomes = join_all(
            expired
                .iter()
                .map(|entry| destroy(entry, DestroyReason::Expired)),
        )
        .await;
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
        let _token = self.state.lifetime.enter()?;
        let state = &self.state;
        let asked = admission::ttl(&state.settings, ttl);
        state.report_limits("extend", None, caller.owner.as_ref(), asked)?;
        let entry = state.find_alive(caller, id)?;
        let owner = entry.facts.owner.as_ref().or(caller.owner.as_ref());
        let ttl = admission::ttl(&state.settings_for(owner), ttl);
        let ttl = state.report_limits("extend", Some(&entry.facts.id), owner, ttl)?;
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
}

/// Tells the sandbox's task and waits for the first attempt; false when it was not to be done after all.
async fn destroy(entry: &Entry, reason: DestroyReason) -> Result<bool, Error> {
    let (reply, answer) = oneshot::channel();
    let command = Command::Destroy {
        reason,
        reply: Some(reply),
        span: tracing::Span::current(),
    };
    // A task that has ended has either destroyed its sandbox, or stopped with the server.
    let ended = |entry: &Entry| match entry.view().phase {
        Phase::Destroyed => Ok(true),
        _ => Err(Error::shutting_down()),
    };
    if entry.commands.send(command).await.is_err() {
        return ended(entry);
    }
    answer.await.unwrap_or_else(|_| ended(entry))
}
