//! The network of a running sandbox, looked at and changed.

use std::sync::Arc;
use std::time::Duration;

use stacyvm_provider::ops::OpError;
use stacyvm_provider::{Capability, Egress, NetworkMode, ProviderError};
use stacyvm_types::{EventData, EventType, NetworkInfo, NetworkRules, SandboxId};
use tokio::time::timeout;

use crate::error::Error;
use crate::health::ProviderSlot;
use crate::limits::bad;
use crate::network::{domains, info, lacks};
use crate::operation_error::public_error;
use crate::orchestrator::Orchestrator;
use crate::registry::Entry;
use crate::settings::Caller;

/// How long a provider may take to look at a network or to change it.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(10);

impl Orchestrator {
    /// How a running sandbox is connected.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when not running, `Unsupported` when the provider cannot tell.
    pub async fn network(&self, caller: &Caller, id: &SandboxId) -> Result<NetworkInfo, Error> {
        let _token = self.state.lifetime.enter()?;
        let entry = self.state.find_running(caller, id)?;
        let slot = slot(&entry)?;
        let networks = slot.provider.networks().ok_or_else(|| {
            Error::Unsupported(format!("provider {} has no networks", slot.provider.name()))
        })?;
        let asking = networks.network(&entry.facts.id);
        answer(&entry, asking).await.map(|mode| info(&mode))
    }

    /// Changes what a running sandbox may reach. Connections that are no longer allowed end.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when not running, `BadRequest` for rules that make no sense,
    /// `Unsupported` when the sandbox has no network or the provider cannot change it.
    pub async fn set_network(
        &self,
        caller: &Caller,
        id: &SandboxId,
        rules: NetworkRules,
    ) -> Result<NetworkInfo, Error> {
        let _token = self.state.lifetime.enter()?;
        let entry = self.state.find_running(caller, id)?;
        match rules.mode.as_deref() {
            None | Some("" | "bridge") => {}
            Some(_) => {
                return bad("the mode of a network is chosen when the sandbox is made");
            }
        }
        let egress = domains(rules.allow_domains.as_deref())?.map_or(Egress::Open, Egress::Domains);
        let slot = slot(&entry)?;
        let networks = slot
            .provider
            .networks()
            .ok_or_else(|| lacks(slot.provider.as_ref(), Capability::EgressDomains))?;
        let setting = networks.set_egress(&entry.facts.id, &egress);
        answer(&entry, setting).await?;
        let data = EventData::none().with("mode", "bridge");
        self.state
            .events
            .of(&entry.facts, EventType::NetworkChanged, data);
        Ok(info(&NetworkMode::Bridge(egress)))
    }
}

fn slot(entry: &Entry) -> Result<&Arc<ProviderSlot>, Error> {
    let name = &entry.facts.provider;
    entry
        .slot
        .as_ref()
        .ok_or_else(|| Error::Unavailable(format!("provider {name:?} is not configured")))
}

async fn answer<T>(
    entry: &Entry,
    asking: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, Error> {
    let name = &entry.facts.provider;
    match timeout(NETWORK_TIMEOUT, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(ProviderError::NotFound(message))) => {
            Err(public_error(entry, OpError::Gone(message)))
        }
        Ok(Err(error)) => Err(Error::from_provider(name, error)),
        Err(_) => Err(Error::Provider {
            provider: name.clone(),
            message: format!("it did not answer about the network within {NETWORK_TIMEOUT:?}"),
            source: None,
        }),
    }
}
