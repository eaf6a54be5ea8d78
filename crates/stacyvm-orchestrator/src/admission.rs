//! From a spawn request as it came in to a plan that can be carried out, or a refusal.
//!
//! Which refusal a request gets depends on the request, the settings and, when it asks for more
//! isolation than the default provider gives, on which others are healthy; how many sandboxes there
//! are is looked at last, by the registry.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use stacyvm_provider::{BoxSpec, Capability, NetworkMode};
use stacyvm_types::{
    Admission, GoDuration, Isolation, OwnerId, PreviewAccess, SandboxId, SpawnRequest, Vcpus,
};

use crate::error::Error;
use crate::health::ProviderSlot;
use crate::limits::{self, DISK_BOUND, MEMORY_BOUND, bad, shown};
use crate::registry::{Counts, Full};
use crate::selection::{self, Selection};
use crate::settings::{Caller, Settings};
use crate::state::OrchestratorState;
use crate::{network, quotas};

/// A request that makes sense.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) owner: Option<OwnerId>,
    pub(crate) slot: Arc<ProviderSlot>,
    /// As the request named it.
    pub(crate) image: String,
    /// As the provider knows it.
    pub(crate) resolved_image: String,
    pub(crate) memory_mb: u64,
    pub(crate) vcpus: Vcpus,
    pub(crate) disk_mb: Option<u64>,
    pub(crate) ttl: Duration,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) preview: Option<PreviewAccess>,
    env: BTreeMap<String, String>,
    workdir: Option<String>,
    user: Option<String>,
    read_only_rootfs: bool,
    /// What the sandbox will be separated by.
    pub(crate) isolation: Isolation,
    network: NetworkMode,
}

impl Plan {
    pub(crate) fn new(
        settings: &Settings,
        providers: &BTreeMap<String, Arc<ProviderSlot>>,
        caller: &Caller,
        request: SpawnRequest,
    ) -> Result<Self, Error> {
        let owner = owner(caller, &request)?;
        let floor = given(&request.isolation)
            .map(str::parse::<Isolation>)
            .transpose()
            .map_err(|error| Error::BadRequest(error.to_string()))?;
        let named = given(&request.provider);
        let default = &settings.default_provider;
        let Selection { slot, isolation } = selection::select(providers, named, default, floor)?;
        let provider = &slot.provider;
        let capable = |capability: Capability| {
            if provider.capabilities().contains(&capability) {
                return Ok(());
            }
            let (name, capability) = (provider.name(), capability.as_str());
            Err(Error::Unsupported(format!(
                "provider {name} lacks the capability {capability}"
            )))
        };

        if let Some(template) = given(&request.template) {
            let template = shown(template);
            return Err(Error::NotFound(format!("template {template:?} not found")));
        }
        let network = network::asked(provider.as_ref(), request.network.as_ref())?;
        if request
            .volumes
            .as_ref()
            .is_some_and(|list| !list.is_empty())
        {
            return Err(Error::Unsupported(format!(
                "provider {} lacks the capability volumes",
                provider.name()
            )));
        }
        let read_only_rootfs = request.read_only_rootfs.unwrap_or(false);
        if read_only_rootfs {
            capable(Capability::ReadOnlyRootfs)?;
        }

        let memory_mb = size(
            "memory_mb",
            request.memory_mb,
            settings.memory_mb,
            MEMORY_BOUND,
        )?;
        let vcpus = match limits::vcpus("vcpus", request.vcpus.unwrap_or(0.0))? {
            Vcpus::NONE => settings.vcpus,
            asked => asked,
        };
        under("memory_mb", memory_mb, settings.max_memory_mb)?;
        under("vcpus", vcpus, settings.max_vcpus)?;
        let disk_mb = match size("disk_mb", request.disk_mb, 0, DISK_BOUND)? {
            // A request that names no size gets no more than it could have asked for. A backend without
            // disk limits gets none; it reports that itself.
            0 => quotas::smaller(settings.disk_mb, settings.max_disk_mb)
                .filter(|_| capable(Capability::DiskLimit).is_ok()),
            asked => {
                limits::disk("disk_mb", asked)?;
                under("disk_mb", asked, settings.max_disk_mb)?;
                capable(Capability::DiskLimit)?;
                Some(asked)
            }
        };
        let ttl = match &request.ttl {
            Some(text) => ttl(settings, text)?,
            None => settings
                .max_ttl
                .map_or(settings.default_ttl, |max| settings.default_ttl.min(max)),
        };

        let user = given(&request.user).map(str::to_owned);
        user.as_deref().map_or(Ok(()), limits::user)?;
        let workdir = given(&request.workdir).map(str::to_owned);
        workdir.as_deref().map_or(Ok(()), limits::workdir)?;
        let image = given(&request.image)
            .or(settings.default_image.as_deref())
            .unwrap_or_else(|| provider.default_image())
            .to_owned();
        limits::image(&image)?;
        let resolved_image = settings.resolve_image(&image).to_owned();
        let metadata = request.metadata.unwrap_or_default();
        limits::metadata(&metadata)?;
        let env = request.env.unwrap_or_default();
        limits::env(&env)?;
        let preview = given(&request.preview)
            .map(str::parse)
            .transpose()
            .map_err(|error| Error::BadRequest(format!("preview: {error}")))?;

        Ok(Self {
            owner,
            image,
            resolved_image,
            memory_mb,
            vcpus,
            disk_mb,
            ttl,
            metadata,
            preview,
            env,
            workdir,
            user,
            read_only_rootfs,
            isolation,
            network,
            slot,
        })
    }

    /// What the backend is asked for; what no request can say comes from the settings.
    pub(crate) fn spec(&self, id: SandboxId, settings: &Settings) -> BoxSpec {
        BoxSpec {
            id,
            image: self.resolved_image.clone(),
            isolation: self.isolation,
            memory_mb: self.memory_mb,
            vcpus: self.vcpus,
            pids_limit: settings.pids_limit,
            open_files: settings.open_files,
            disk_mb: self.disk_mb,
            read_only_rootfs: self.read_only_rootfs,
            network: self.network.clone(),
            user: self.user.clone(),
            workdir: self.workdir.clone(),
            env: self.env.clone(),
        }
    }
}

/// The header wins over the body.
pub(crate) fn owner(caller: &Caller, request: &SpawnRequest) -> Result<Option<OwnerId>, Error> {
    if let Some(owner) = &caller.owner {
        return Ok(Some(owner.clone()));
    }
    given(&request.owner_id)
        .map(str::parse)
        .transpose()
        .map_err(|error| Error::BadRequest(format!("owner_id: {error}")))
}

/// A time to live that is allowed.
pub(crate) fn ttl(settings: &Settings, text: &str) -> Result<Duration, Error> {
    let ttl: GoDuration = text
        .parse()
        .map_err(|error| Error::BadRequest(format!("ttl: {error}")))?;
    if !ttl.is_positive() {
        return bad(format!("ttl must be longer than nothing, not {ttl}"));
    }
    match settings.max_ttl {
        Some(max) if ttl.to_std() > max => {
            let max = GoDuration::from(max);
            Err(Error::ResourceLimit(format!(
                "ttl {ttl} is longer than the longest allowed, {max}"
            )))
        }
        _ => Ok(ttl.to_std()),
    }
}

/// The bounds of the pause after which a client is told to repeat a spawn that found no room.
const MIN_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// What a full registry means to a client, in words.
pub(crate) fn reason(settings: &Settings, full: Full) -> String {
    match full {
        Full::All => format!(
            "all {} sandboxes are in use; destroy one or wait for one to expire",
            settings.max_sandboxes
        ),
        Full::OfOwner => format!(
            "all {} sandboxes of this owner are in use; destroy one or wait for one to expire",
            settings.max_owner_sandboxes
        ),
        Full::IdInUse => "no free sandbox id was found".to_owned(),
    }
}

/// The refusal for want of room: worth another try when the next sandbox expires.
pub(crate) fn full(state: &OrchestratorState, message: String) -> Error {
    let now = state.clock.now();
    let next = state.expiry.next();
    let until = next.map_or(MAX_RETRY, |next| next.saturating_since(now));
    Error::Full {
        message,
        retry_after: until.clamp(MIN_RETRY, MAX_RETRY),
    }
}

/// How many more sandboxes an owner may have; none when that is not limited.
pub(crate) fn left(state: &OrchestratorState, owner: Option<&OwnerId>) -> Option<u64> {
    let max = state.settings_for(owner).max_owner_sandboxes;
    let counts = state.registry.counts(owner);
    (owner.is_some() && max != 0).then(|| max.saturating_sub(counts.of_owner))
}

/// The answer of a dry run; `refused` is what a limit said about the request itself, `place`
/// whether the spawn queue has a place.
pub(crate) fn answer(
    settings: &Settings,
    counts: Counts,
    owned: bool,
    refused: Option<String>,
    place: bool,
) -> Admission {
    let full = |limit: u64, count: u64| limit != 0 && count >= limit;
    let of_owner = owned && full(settings.max_owner_sandboxes, counts.of_owner);
    let all = full(settings.max_sandboxes, counts.all);
    let queueable = refused.is_none() && all && !of_owner && place;
    let reason = refused.or_else(|| {
        if all {
            Some(reason(settings, Full::All))
        } else if of_owner {
            Some(reason(settings, Full::OfOwner))
        } else {
            None
        }
    });
    Admission {
        allowed: reason.is_none(),
        queueable,
        reason: reason.unwrap_or_default(),
        active_sandboxes: counts.all,
        max_sandboxes: settings.max_sandboxes,
        active_owner_sandboxes: counts.of_owner,
        max_owner_sandboxes: settings.max_owner_sandboxes,
        max_ttl: settings
            .max_ttl
            .map(|max| GoDuration::from(max).to_string())
            .unwrap_or_default(),
    }
}

/// Clients write `""` for what they do not want to say.
fn given(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}

/// A size from the request; 0 and absent mean the default.
fn size(name: &str, asked: Option<i64>, default: u64, bound: i64) -> Result<u64, Error> {
    match asked {
        None | Some(0) => Ok(default),
        Some(asked) if asked < 0 => bad(format!("{name} must not be negative")),
        Some(asked) if asked > bound => bad(format!("{name} must not be above {bound}")),
        Some(asked) => Ok(asked.unsigned_abs()),
    }
}

fn under<T: PartialOrd + Display>(name: &str, value: T, max: Option<T>) -> Result<(), Error> {
    match max {
        Some(max) if value > max => Err(Error::ResourceLimit(format!(
            "{name} {value} is above the most allowed, {max}"
        ))),
        _ => Ok(()),
    }
}
