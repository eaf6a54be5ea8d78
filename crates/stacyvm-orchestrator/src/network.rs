//! How sandboxes are connected: what a spawn asks for, and what is changed while one runs.

use std::sync::Arc;
use std::time::Duration;

use stacyvm_provider::ops::OpError;
use stacyvm_provider::{Capability, Egress, NetworkMode, Provider, ProviderError};
use stacyvm_types::{
    DomainPattern, EventData, EventType, NetworkInfo, NetworkRequest, NetworkRules, SandboxId,
};
use tokio::time::timeout;

use crate::health::ProviderSlot;
use crate::limits::{bad, shown};
use crate::operation_error::public_error;
use crate::registry::Entry;
use crate::{Caller, Error, Orchestrator};

/// How many names one sandbox's rules may have.
const MAX_DOMAINS: usize = 256;
/// How long a provider may take to look at a network or to change it.
const ANSWER: Duration = Duration::from_secs(10);

/// What a spawn on `provider` gets that asks for this.
pub(crate) fn asked(
    provider: &dyn Provider,
    request: Option<&NetworkRequest>,
) -> Result<NetworkMode, Error> {
    let rules = match request {
        None => NetworkRules::default(),
        Some(NetworkRequest::Word(word)) => NetworkRules {
            mode: Some(word.clone()),
            allow_domains: None,
        },
        Some(NetworkRequest::Rules(rules)) => rules.clone(),
    };
    let domains = domains(rules.allow_domains.as_deref())?;
    let mode = match (rules.mode.as_deref(), domains) {
        (None | Some(""), None) => return Ok(provider.default_network()),
        (None | Some("" | "bridge"), Some(domains)) => {
            NetworkMode::Bridge(Egress::Domains(domains))
        }
        (Some("bridge"), None) => NetworkMode::Bridge(Egress::Open),
        (Some("none"), None) => NetworkMode::None,
        (Some("none"), Some(domains)) if domains.is_empty() => NetworkMode::None,
        (Some("none"), Some(_)) => {
            return bad("network.allow_domains needs the network bridge, not none");
        }
        (Some(other), _) => {
            let other = shown(other);
            return bad(format!(
                "unknown network {other:?}: the networks are none and bridge"
            ));
        }
    };
    let needed: &[Capability] = match &mode {
        NetworkMode::None => &[Capability::NetworkNone],
        NetworkMode::Bridge(Egress::Open) => &[Capability::NetworkBridge],
        NetworkMode::Bridge(Egress::Domains(_)) => {
            &[Capability::NetworkBridge, Capability::EgressDomains]
        }
    };
    let capabilities = provider.capabilities();
    match needed.iter().find(|one| !capabilities.contains(one)) {
        None => Ok(mode),
        Some(missing) => Err(lacks(provider, *missing)),
    }
}

fn lacks(provider: &dyn Provider, missing: Capability) -> Error {
    Error::Unsupported(format!(
        "provider {} lacks the capability {}",
        provider.name(),
        missing.as_str()
    ))
}

fn domains(texts: Option<&[String]>) -> Result<Option<Vec<DomainPattern>>, Error> {
    let Some(texts) = texts else { return Ok(None) };
    if texts.len() > MAX_DOMAINS {
        return bad(format!(
            "network.allow_domains has more than {MAX_DOMAINS} names"
        ));
    }
    let parse = |(number, text): (usize, &String)| {
        text.parse()
            .map_err(|error| Error::BadRequest(format!("network.allow_domains[{number}]: {error}")))
    };
    texts
        .iter()
        .enumerate()
        .map(parse)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn info(mode: &NetworkMode) -> NetworkInfo {
    let (mode, domains) = match mode {
        NetworkMode::None => ("none", None),
        NetworkMode::Bridge(Egress::Open) => ("bridge", None),
        NetworkMode::Bridge(Egress::Domains(domains)) => ("bridge", Some(domains)),
    };
    NetworkInfo {
        mode: mode.to_owned(),
        allow_domains: domains.map(|all| all.iter().map(ToString::to_string).collect()),
    }
}

impl Orchestrator {
    /// How a running sandbox is connected.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when not running, `Unsupported` when the provider cannot tell.
    pub async fn network(&self, caller: &Caller, id: &SandboxId) -> Result<NetworkInfo, Error> {
        let _token = self.shared.enter()?;
        let entry = self.shared.find_running(caller, id)?;
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
        let _token = self.shared.enter()?;
        let entry = self.shared.find_running(caller, id)?;
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
        self.shared
            .events
            .of(&entry, EventType::NetworkChanged, data);
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
    match timeout(ANSWER, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(ProviderError::NotFound(message))) => {
            Err(public_error(entry, OpError::Gone(message)))
        }
        Ok(Err(error)) => Err(Error::from_provider(name, error)),
        Err(_) => Err(Error::Provider {
            provider: name.clone(),
            message: format!("it did not answer about the network within {ANSWER:?}"),
            source: None,
        }),
    }
}
