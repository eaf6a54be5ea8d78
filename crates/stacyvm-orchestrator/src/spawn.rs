//! From a spawn request to a running sandbox, idempotency keys included. The work itself is done
//! by the sandbox's task; this only waits for it.

mod queued;

use std::sync::Arc;
use std::time::Duration;

use stacyvm_provider::ImageHold;
use stacyvm_store::IdempotencyClaim;
use stacyvm_types::{Sandbox, SandboxId, SpawnRequest};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::admission::{self, Plan};
use crate::error::Error;
use crate::facts::SandboxFacts;
use crate::keys::{self, Entered, KeyGuard};
use crate::lifecycle::Phase;
use crate::limits;
use crate::registry::{Entry, Full, View};
use crate::sandbox::command::COMMAND_QUEUE;
use crate::sandbox::{NewSandbox, SandboxTask, SpawnFailure};
use crate::settings::Caller;
use crate::state::OrchestratorState;
use queued::QueuedSpawn;

/// How long a key is honoured.
const KEY_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a backend may take to look at an image's name.
const IMAGE_CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one may take to fetch an image. A download that stands still is given up long before.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// How many ids are drawn before giving up. With a thousand million ids given out the chance of
/// as many collisions in a row is below one in 10^20.
const MAX_DRAWS: usize = 32;

pub(crate) async fn spawn(
    state: &Arc<OrchestratorState>,
    caller: &Caller,
    request: SpawnRequest,
    key: Option<&str>,
) -> Result<Sandbox, Error> {
    let digest = key.map(|_| keys::digest(&request));
    let owner = admission::owner(caller, &request)?;
    let settings = state.settings_for(owner.as_ref());
    let plan = Plan::new(&settings, &state.providers, caller, request)?;
    let mut held = None;
    if let (Some(key), Some(digest)) = (key, digest) {
        limits::idempotency_key(key)?;
        match hold(state, &plan, key, digest).await? {
            Held::Made(sandbox) => return Ok(*sandbox),
            Held::First(guard) => held = Some((guard, key, digest)),
        }
    }
    check_provider(state, &plan).await?;
    let _image = prepare_image(state, &plan).await?;
    let mut queued = QueuedSpawn::new(state, plan.owner.as_ref());
    queued.behind_others().await?;
    let mut draws = 0;
    while draws < MAX_DRAWS {
        let id = SandboxId::from_u32((state.draw)());
        let key = held.as_ref().map(|(guard, key, digest)| {
            let claim = IdempotencyClaim {
                owner: plan.owner.clone(),
                key: (*key).to_owned(),
                digest: *digest,
                expires_at: state.clock.now().saturating_add(KEY_LIFETIME),
            };
            (claim, Arc::clone(guard))
        });
        match attempt(state, &plan, id, key, &mut queued).await {
            Err(SpawnFailure::IdTaken) => draws += 1,
            Err(SpawnFailure::NoRoom(full)) => queued.after(full).await?,
            Err(SpawnFailure::Failed(error)) => return Err(error),
            Ok(sandbox) => return Ok(sandbox),
        }
    }
    Err(Error::Internal {
        message: "no free sandbox id was found".to_owned(),
        source: None,
    })
}

enum Held {
    First(Arc<KeyGuard>),
    Made(Box<Sandbox>),
}

/// Waits until the key is free, then tells what it made or takes it.
async fn hold(
    state: &Arc<OrchestratorState>,
    plan: &Plan,
    key: &str,
    digest: [u8; 32],
) -> Result<Held, Error> {
    let other = || {
        Err(Error::Conflict(
            "this Idempotency-Key was used for another request; use a new one".to_owned(),
        ))
    };
    let owner = plan.owner.as_ref();
    loop {
        let guard = match state.keys.enter(owner, key, digest) {
            Entered::First(guard) => guard,
            Entered::Other => return other(),
            Entered::Wait(done) => {
                done.cancelled().await;
                continue;
            }
        };
        let now = state.clock.now();
        let Some(hit) = state.store.idempotency(owner, key, now).await? else {
            return Ok(Held::First(guard));
        };
        if hit.digest != digest {
            return other();
        }
        let id = hit.sandbox;
        let entry = state.registry.get(&id);
        let made = entry.and_then(|entry| entry.public(&state.settings.preview_domain));
        return made.map(|made| Held::Made(Box::new(made))).ok_or_else(|| {
            Error::Conflict(format!(
                "sandbox {id}, made with this Idempotency-Key, is destroyed; use a new key"
            ))
        });
    }
}

async fn check_provider(state: &Arc<OrchestratorState>, plan: &Plan) -> Result<(), Error> {
    let name = plan.slot.provider.name();
    // A provider that was found unhealthy gets a second look: it may have recovered.
    if !plan.slot.healthy() && !plan.slot.check(|| state.clock.now()).await {
        let error = plan.slot.error().unwrap_or_default();
        return Err(Error::Unavailable(format!(
            "provider {name} is not healthy: {error}"
        )));
    }
    match timeout(
        IMAGE_CHECK_TIMEOUT,
        plan.slot.provider.check_image(&plan.resolved_image),
    )
    .await
    {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Error::from_provider(name, error)),
        Err(_) => Err(Error::Provider {
            provider: name.to_owned(),
            message: format!(
                "it did not say within {IMAGE_CHECK_TIMEOUT:?} whether it has the image"
            ),
            source: None,
        }),
    }
}

/// Waits until the image is ready, and keeps it so. A spawn that waits for a download has no permit,
/// no id and no slot in the queue yet, and leaves nothing behind when its client goes.
async fn prepare_image(state: &Arc<OrchestratorState>, plan: &Plan) -> Result<ImageHold, Error> {
    let provider = &plan.slot.provider;
    let preparing = timeout(
        DOWNLOAD_TIMEOUT,
        provider.prepare_image(&plan.resolved_image),
    );
    let prepared = tokio::select! {
        prepared = preparing => prepared,
        () = state.lifetime.closing.cancelled() => return Err(Error::shutting_down()),
    };
    let name = provider.name();
    match prepared {
        Ok(prepared) => prepared.map_err(|error| Error::from_provider(name, error)),
        Err(_) => Err(Error::Provider {
            provider: name.to_owned(),
            message: format!("the image was not ready within {DOWNLOAD_TIMEOUT:?}"),
            source: None,
        }),
    }
}

/// One try with one id.
async fn attempt(
    state: &Arc<OrchestratorState>,
    plan: &Plan,
    id: SandboxId,
    key: Option<(IdempotencyClaim, Arc<KeyGuard>)>,
    queued: &mut QueuedSpawn<'_>,
) -> Result<Sandbox, SpawnFailure> {
    let created_at = state.clock.now();
    let provider = &plan.slot.provider;
    let facts = SandboxFacts {
        id: id.clone(),
        provider: provider.name().to_owned(),
        image: plan.image.clone(),
        memory_mb: plan.memory_mb,
        vcpus: plan.vcpus,
        disk_mb: plan.disk_mb,
        owner: plan.owner.clone(),
        template: None,
        isolation: plan.isolation,
        created_at,
        metadata: plan.metadata.clone(),
        preview: plan.preview,
    };
    let view = View {
        phase: Phase::Creating,
        expires_at: created_at.saturating_add(plan.ttl),
        destroy_failed: false,
    };
    let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
    let slot = Some(Arc::clone(&plan.slot));
    let entry = Arc::new(Entry::new(facts, slot, sender, view));
    let settings = state.settings_for(plan.owner.as_ref());
    let limits = (settings.max_sandboxes, settings.max_owner_sandboxes);
    match state.registry.admit(&entry, limits.0, limits.1) {
        Ok(()) => queued.leave(),
        Err(Full::IdInUse) => return Err(SpawnFailure::IdTaken),
        Err(full) => return Err(SpawnFailure::NoRoom(full)),
    }
    let (reply, answer) = oneshot::channel();
    let (claim, key) = key.unzip();
    let new = NewSandbox {
        spec: plan.spec(id, &settings),
        claim,
        key,
        reply,
        span: tracing::Span::current(),
    };
    let task = SandboxTask::creating(Arc::clone(state), entry, commands);
    state.lifetime.tasks.spawn(task.run_new(new));
    let stopped = |_| SpawnFailure::Failed(Error::shutting_down());
    answer.await.map_err(stopped)?
}
