//! Quotas: data that the operator writes through the API, unlike the configuration, which no
//! route changes.

use std::sync::Arc;

use stacyvm_types::{Quota, QuotaRequest, QuotaSummary};

use tracing::Instrument;

use crate::limit_events::LimitEvent;
use crate::state::OrchestratorState;
use crate::{Caller, Error, Orchestrator, quotas};

impl Orchestrator {
    /// Every quota that the caller may see, sorted by owner.
    pub fn quotas(&self, caller: &Caller) -> Vec<Quota> {
        let mut list = self.state.quotas.list();
        if let Some(owner) = self.confined(caller) {
            list.retain(|quota| quota.owner_id == *owner);
        }
        list
    }

    /// How many owners have which limits.
    pub fn quota_summary(&self) -> QuotaSummary {
        self.state.quotas.summary()
    }

    /// One owner's quota.
    ///
    /// # Errors
    /// `BadRequest` for what is no owner id; `NotFound`.
    pub fn quota(&self, caller: &Caller, owner: &str) -> Result<Quota, Error> {
        let owner = quotas::owner(owner)?;
        self.state
            .quotas
            .get(&owner)
            .filter(|_| self.confined(caller).is_none_or(|own| *own == owner))
            .ok_or_else(|| missing(owner.as_str()))
    }

    /// Gives an owner that has none a quota.
    ///
    /// # Errors
    /// `BadRequest`; `Conflict` when the owner has one; `Forbidden` in pool mode for an owner.
    pub async fn create_quota(
        &self,
        caller: &Caller,
        request: QuotaRequest,
    ) -> Result<Quota, Error> {
        let Some(owner) = request.owner_id.clone() else {
            return crate::limits::bad("missing field `owner_id`");
        };
        self.write_quota(caller, owner, request, true).await
    }

    /// Changes an owner's quota, or gives the owner one. What the request leaves out stays.
    ///
    /// # Errors
    /// `BadRequest`; `Forbidden` in pool mode for an owner.
    pub async fn set_quota(
        &self,
        caller: &Caller,
        owner: &str,
        request: QuotaRequest,
    ) -> Result<Quota, Error> {
        if let Some(named) = &request.owner_id
            && quotas::owner(named)? != quotas::owner(owner)?
        {
            return crate::limits::bad("owner_id and the path name different owners");
        }
        self.write_quota(caller, owner.to_owned(), request, false)
            .await
    }

    /// Takes an owner's quota away; the configuration's limits go on.
    ///
    /// # Errors
    /// `BadRequest`; `NotFound`; `Forbidden` in pool mode for an owner.
    pub async fn delete_quota(&self, caller: &Caller, owner: &str) -> Result<(), Error> {
        let _token = self.state.lifetime.enter()?;
        self.check_operator(caller)?;
        let owner = quotas::owner(owner)?;
        self.to_the_end(|state| async move {
            let _changing = state.quotas.changing.lock().await;
            if !state.store.delete_quota(&owner).await? {
                return Err(missing(owner.as_str()));
            }
            state.quotas.remove(&owner);
            state.publish_limit(LimitEvent::QuotaDeleted { owner: &owner });
            Ok(())
        })
        .await
    }

    async fn write_quota(
        &self,
        caller: &Caller,
        owner: String,
        request: QuotaRequest,
        must_be_new: bool,
    ) -> Result<Quota, Error> {
        let _token = self.state.lifetime.enter()?;
        self.check_operator(caller)?;
        let owner = quotas::owner(&owner)?;
        self.to_the_end(move |state| async move {
            let _changing = state.quotas.changing.lock().await;
            let before = state.quotas.get(&owner);
            if before.is_some() && must_be_new {
                return Err(Error::Conflict(format!(
                    "a quota of owner {:?} already exists",
                    owner.as_str()
                )));
            }
            let now = state.clock.now();
            let quota = quotas::changed(before.as_ref(), owner, &request, now)?;
            if before.is_none() && !state.quotas.has_room() {
                return Err(Error::ResourceLimit("there are too many quotas".to_owned()));
            }
            state.store.set_quota(quota.clone()).await?;
            state.quotas.set(quota.clone());
            let owner = &quota.owner_id;
            state.publish_limit(match before {
                None => LimitEvent::QuotaCreated { owner },
                Some(_) => LimitEvent::QuotaUpdated { owner },
            });
            Ok(quota)
        })
        .await
    }

    /// Brings a change to its end also when its caller has gone, so that memory never
    /// says other than the store.
    async fn to_the_end<T, F>(
        &self,
        change: impl FnOnce(Arc<OrchestratorState>) -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let task = self
            .state
            .lifetime
            .tasks
            .spawn(change(state).in_current_span());
        task.await.unwrap_or_else(|_| Err(Error::shutting_down()))
    }

    /// In pool mode an owner sees their own only.
    fn confined<'a>(&self, caller: &'a Caller) -> Option<&'a stacyvm_types::OwnerId> {
        caller
            .owner
            .as_ref()
            .filter(|_| self.state.settings.pool_mode)
    }

    fn check_operator(&self, caller: &Caller) -> Result<(), Error> {
        match self.confined(caller) {
            None => Ok(()),
            Some(_) => Err(Error::Forbidden(
                "in pool mode quotas are the operator's to change: leave X-User-ID out".to_owned(),
            )),
        }
    }
}

fn missing(owner: &str) -> Error {
    Error::NotFound(format!("owner {owner:?} has no quota"))
}
