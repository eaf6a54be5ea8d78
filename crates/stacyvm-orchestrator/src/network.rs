//! The words of requests about networks, checked and turned into modes.

use stacyvm_provider::{Capability, Egress, NetworkMode, Provider};
use stacyvm_types::{DomainPattern, NetworkInfo, NetworkRequest, NetworkRules};

use crate::error::Error;
use crate::limits::{bad, shown};

/// How many names one sandbox's rules may have.
const MAX_DOMAINS: usize = 256;
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

/// The refusal for want of a capability.
pub(crate) fn lacks(provider: &dyn Provider, missing: Capability) -> Error {
    Error::Unsupported(format!(
        "provider {} lacks the capability {}",
        provider.name(),
        missing.as_str()
    ))
}

/// The patterns of a list of names, checked.
pub(crate) fn domains(texts: Option<&[String]>) -> Result<Option<Vec<DomainPattern>>, Error> {
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

/// A network as the API shows it.
pub(crate) fn info(mode: &NetworkMode) -> NetworkInfo {
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
