//! Making one box, from its directory to its agent's first answer.
//!
//! Runs as a task of its own: a caller who goes away does not leave a half-made box, because the
//! task goes on and then removes what nobody waits for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use stacyvm_launcher::control::{IoLimits, LaunchFailure, LaunchRequest, Limits};
use stacyvm_provider::ops::OpError;
use stacyvm_provider::{
    AgentSandbox, BoxSpec, Egress, NetworkMode, ProviderError, bind_unix, directory_stands,
};
use tokio::io::AsyncReadExt as _;

use crate::agent;
use crate::boxes::{BoxEntry, Refusal};
use crate::disk::Made;
use crate::images::Base;
use crate::inner::Inner;
use crate::launcher::LaunchError;
use crate::layout::AGENT_SOCKET;
use crate::meta::{self, META_VERSION, Meta};
use crate::network::Taken;
use crate::process::Process;
use crate::slots::{IDS_PER_SLOT, id_base};
use crate::users::User;
use crate::wishes;

/// How long a sandbox may take from its launch to its agent's first answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long to read on after the sandbox's death.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What a launch failure's text may have at most; the child that writes it is not trusted.
const MAX_FAILURE: u64 = 16 * 1024;

/// What is on disk and open before the launch.
struct Prepared {
    base: Base,
    user: User,
    listener: OwnedFd,
    status: OwnedFd,
    status_end: OwnedFd,
    network: Option<OwnedFd>,
    disk: Option<Made>,
}

/// Makes a box; on an error nothing of it is left. `probe` keeps it out of every list.
pub(crate) async fn create(
    inner: Arc<Inner>,
    spec: BoxSpec,
    probe: bool,
) -> Result<(Arc<BoxEntry>, Arc<AgentSandbox>), ProviderError> {
    let limits = limits_of(&spec, inner.io)?;
    let (entry, slot) = inner
        .boxes
        .reserve(&spec.id, probe)
        .map_err(|refusal| match refusal {
            Refusal::Exists => {
                ProviderError::Invalid(format!("sandbox {} exists already", spec.id))
            }
            Refusal::Full => ProviderError::Limit(
                "every range of user ids is taken: destroy sandboxes first".to_owned(),
            ),
        })?;
    let _lock = entry.lock.clone().lock_owned().await;
    match make(&inner, &entry, slot, &spec, limits).await {
        Ok(sandbox) => Ok((entry, sandbox)),
        Err(error) => {
            if let Err(left) = inner.remove(&entry).await {
                tracing::error!(sandbox_id = %spec.id, error = %left, "a failed sandbox could not be removed");
            }
            Err(error)
        }
    }
}

async fn make(
    inner: &Arc<Inner>,
    entry: &Arc<BoxEntry>,
    slot: u32,
    spec: &BoxSpec,
    limits: Limits,
) -> Result<Arc<AgentSandbox>, ProviderError> {
    let taken = take_network(inner, &spec.network).await?;
    let (lease, bridge) = (
        taken.as_ref().map(|taken| taken.lease.clone()),
        &inner.network.bridge,
    );
    entry.facts().network = taken.as_ref().map(|taken| taken.lease.clone());
    let files = taken.as_ref().zip(inner.network.bridge.as_ref());
    let files = files.map(|(taken, bridge)| bridge.files(&taken.lease, spec.id.as_str()));
    let preparing = tokio::task::spawn_blocking({
        let (inner, entry, spec) = (inner.clone(), entry.clone(), spec.clone());
        let span = tracing::Span::current();
        move || span.in_scope(|| prepare(&inner, &entry, slot, &spec, limits, taken))
    });
    let admitting = async {
        match (bridge, &lease) {
            (Some(bridge), Some(lease)) => bridge.admit(&spec.id, lease).await,
            _ => Ok(()),
        }
    };
    let (prepared, admitted) = tokio::join!(preparing, admitting);
    let prepared = prepared
        .map_err(|error| ProviderError::backend("prepare the sandbox's directory", "", error))??;
    admitted?;

    let configure = wishes::defaults(spec, prepared.base.config(), prepared.user);
    let request = LaunchRequest {
        seq: 0,
        id: spec.id.to_string(),
        disk: prepared
            .disk
            .as_ref()
            .is_some_and(|made| made.root.is_some()),
        box_dir: entry.dir.clone(),
        overlays: prepared.base.overlay_specs(),
        read_only_rootfs: spec.read_only_rootfs,
        id_base: id_base(slot),
        id_count: IDS_PER_SLOT,
        uid: prepared.user.uid,
        gid: prepared.user.gid,
        limits,
        cgroup_parent: inner.cgroup_parent.clone(),
        network: files,
    };
    // The socket listens already, so the hello waits in it for the agent to come up.
    let configured = configure.clone();
    let mut connecting = Box::pin(agent::connect(
        entry,
        inner.ports.as_ref(),
        Some(configured),
    ));
    let mut beside = vec![prepared.listener, prepared.status_end];
    beside.extend(prepared.network);
    beside.extend(prepared.disk.and_then(|made| made.root));
    let mut launching = Box::pin(inner.launchers.launch(Box::new(request), beside));
    let mut early = None;
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut launching => break answer,
            connected = &mut connecting, if early.is_none() => early = Some(connected),
        }
    };
    let (launched, pidfd) = match answer {
        Ok(answer) => answer,
        Err(error) => return Err(explain(error, prepared.status).await),
    };
    let process = Process::from_pidfd(launched.pid, pidfd)
        .map(Arc::new)
        .map_err(|error| ProviderError::backend("watch the sandbox's process", "", error))?;
    {
        let mut facts = entry.facts();
        facts.process = Some(process.clone());
        facts.cgroups = launched.cgroups;
        facts.limits = Some(limits);
        facts.host_view = prepared.base.host_view;
    }
    inner.set_degraded(launched.degraded);

    let connected = async {
        let first = match early {
            Some(connected) => connected,
            None => connecting.await,
        };
        match first {
            // Its time may have run out while the launch waited for its turn.
            Err(OpError::Gone(_)) => {
                agent::connect(entry, inner.ports.as_ref(), Some(configure.clone())).await
            }
            other => other,
        }
    };
    let mut failing = Box::pin(first_failure(prepared.status, &process));
    let connected = tokio::select! {
        connected = connected => connected,
        failure = &mut failing => return Err(failure),
        () = tokio::time::sleep(ANSWER_LIMIT) => {
            return Err(step_failed("wait for the agent", "it did not answer in time"));
        }
    };
    let sandbox = match connected {
        Ok(sandbox) => sandbox,
        // Whoever hangs up mostly dies, and then has said why elsewhere.
        Err(error) => {
            return Err(tokio::time::timeout(LAST_WORDS, failing)
                .await
                .unwrap_or_else(|_| agent_failed(error)));
        }
    };
    let place = configure.workdir.as_deref();
    let sandbox = match place {
        Some(place) if spec.workdir.is_none() && !directory_stands(&sandbox, place).await => {
            let configure = agent::Configure {
                workdir: None,
                ..configure
            };
            let again = agent::connect(entry, inner.ports.as_ref(), Some(configure)).await;
            again.map_err(agent_failed)?
        }
        _ => sandbox,
    };
    entry.facts().agent = Some(sandbox.clone());
    Ok(sandbox)
}

/// Takes the network that was asked for; none for a loopback alone, which the launcher makes.
async fn take_network(inner: &Inner, mode: &NetworkMode) -> Result<Option<Taken>, ProviderError> {
    let NetworkMode::Bridge(egress) = mode else {
        return Ok(None);
    };
    let bridge = inner.network.offered().ok_or_else(|| {
        ProviderError::Unsupported("provider native lacks the capability network-bridge".to_owned())
    })?;
    if *egress != Egress::Open && !bridge.has_names() {
        return Err(ProviderError::Unsupported(
            "provider native lacks the capability egress-domains".to_owned(),
        ));
    }
    Ok(Some(bridge.take(egress).await?))
}

/// Everything that touches the disk, in one go on a thread that may block.
fn prepare(
    inner: &Inner,
    entry: &BoxEntry,
    slot: u32,
    spec: &BoxSpec,
    limits: Limits,
    taken: Option<Taken>,
) -> Result<Prepared, ProviderError> {
    let base = inner.images.find(&spec.image)?;
    let user = wishes::user(spec, base.config(), &base.rootfs)?;
    let prepared = |error: io::Error| {
        ProviderError::backend(
            "prepare the sandbox's directory",
            error.kind().to_string(),
            error,
        )
    };
    rustix::fs::mkdir(&entry.dir, rustix::fs::Mode::RWXU)
        .map_err(|error| prepared(error.into()))?;
    let disk = match spec.disk_mb {
        Some(mb) => Some(inner.disks.make(&entry.dir, slot, mb)?),
        None => None,
    };
    entry.facts().disk = disk.as_ref().map(|made| made.disk);
    let meta = Meta {
        version: META_VERSION,
        id: spec.id.clone(),
        image: spec.image.clone(),
        image_root: base.image_root(),
        host_view: base.host_view.clone(),
        slot,
        uid: user.uid,
        gid: user.gid,
        limits,
        disk: disk.as_ref().map(|made| made.disk),
        created: meta::now(),
        network: taken.as_ref().map(|taken| taken.lease.clone()),
    };
    let files = || -> io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
        meta::write(&entry.dir, &meta)?;
        let listener = bind_unix(&entry.dir.join(AGENT_SOCKET))?;
        listener.set_nonblocking(true)?;
        let (status, status_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok((listener.into(), status, status_end))
    };
    let (listener, status, status_end) = files().map_err(prepared)?;
    if let (Some(taken), Some(bridge)) = (&taken, &inner.network.bridge) {
        bridge.apply(taken.device, &taken.lease.egress())?;
    }
    Ok(Prepared {
        base,
        user,
        listener,
        status,
        status_end,
        network: taken.map(|taken| taken.namespace),
        disk,
    })
}

/// Why a launch failed. When the launcher only saw its child end, the child has said why.
async fn explain(error: LaunchError, status: OwnedFd) -> ProviderError {
    let said = tokio::time::timeout(LAST_WORDS, read_failure(status)).await;
    launch_failed(match said {
        Ok(Some(failure)) => LaunchError::Failed(failure),
        Ok(None) | Err(_) => error,
    })
}

/// Resolves when the sandbox has failed: by its own word on the status pipe, or by its death. A
/// pipe that ends without a word says that the setup is done, and then only the death counts.
async fn first_failure(status: OwnedFd, process: &Process) -> ProviderError {
    let mut said = std::pin::pin!(read_failure(status));
    let failure = tokio::select! {
        biased;
        failure = &mut said => {
            if failure.is_none() {
                process.wait().await;
            }
            failure
        }
        // Its last words may still be on their way to us.
        () = process.wait() => tokio::time::timeout(LAST_WORDS, said).await.ok().flatten(),
    };
    failure.map_or_else(
        || {
            step_failed(
                "start the agent",
                "the sandbox's first process ended before its agent answered",
            )
        },
        |failure| launch_failed(LaunchError::Failed(failure)),
    )
}

/// What the child says, or none when it closes the pipe in silence.
async fn read_failure(status: OwnedFd) -> Option<LaunchFailure> {
    let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(status).ok()?;
    let mut said = Vec::new();
    pipe.take(MAX_FAILURE).read_to_end(&mut said).await.ok()?;
    serde_json::from_slice(&said).ok()
}

fn limits_of(spec: &BoxSpec, io: Option<IoLimits>) -> Result<Limits, ProviderError> {
    let memory_bytes = spec.memory_mb.checked_mul(1024 * 1024);
    match memory_bytes {
        Some(memory_bytes @ 1..)
            if !spec.vcpus.is_none() && spec.pids_limit > 0 && spec.open_files > 0 =>
        {
            Ok(Limits {
                memory_bytes,
                vcpus: spec.vcpus.cores(),
                pids: spec.pids_limit,
                open_files: spec.open_files,
                io,
            })
        }
        _ => Err(ProviderError::Invalid(
            "memory, vcpus and the limits of processes and files must be above 0 and not absurd"
                .to_owned(),
        )),
    }
}

fn step_failed(step: &'static str, message: &str) -> ProviderError {
    ProviderError::Backend {
        step,
        message: message.to_owned(),
        source: None,
    }
}

fn agent_failed(error: OpError) -> ProviderError {
    match error {
        OpError::Invalid(message) => ProviderError::Invalid(message),
        OpError::Unsupported(message) => ProviderError::Unsupported(message),
        other => ProviderError::backend("say hello to the agent", other.to_string(), other),
    }
}

fn launch_failed(error: LaunchError) -> ProviderError {
    let message = error.to_string();
    match error {
        LaunchError::NotRunning => ProviderError::Unavailable(message),
        other => ProviderError::backend("launch the sandbox", message, other),
    }
}
