//! Warm containers: made ahead, with a live agent in them, for sandboxes that are yet to come.
//!
//! Owns which there are and handing one over. Its rule: a container's name says whose it is. A warm
//! one becomes a sandbox by its renaming, in one step of the engine's, so a server that is killed at
//! any moment leaves either a warm container or a sandbox, never something in between.

mod keeper;
mod shape;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::models::ContainerUpdateBody;
use bollard::query_parameters::RenameContainerOptions;
use stacyvm_provider::{AgentSandbox, BoxSpec, ProviderError};
use stacyvm_types::Vcpus;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::create::{self, Making};
use crate::engine::{EngineError, QUICK};
use crate::inner::{Inner, locked};
use crate::removal;

use shape::{Adjustable, Shape};

/// How long ending the work, and removing what it made, may take when the provider is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(15);

/// Which containers are kept warm, and what they have. A sandbox that asks for other memory,
/// processors or processes can have one too, where the runtime changes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WarmSettings {
    /// How many of which image.
    pub images: BTreeMap<String, u32>,
    /// MiB.
    pub memory_mb: u64,
    /// Processors.
    pub vcpus: Vcpus,
    /// Processes and threads.
    pub pids_limit: u32,
    /// Open files of a process.
    pub open_files: u64,
    /// Size of what they write, MiB; none is no limit.
    pub disk_mb: Option<u64>,
}

/// One server's warm containers.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    ready: Mutex<Vec<Ready>>,
    /// Told when one was taken.
    taken: Notify,
    kept: AtomicBool,
    stop: CancellationToken,
    work: TaskTracker,
}

/// A container that waits.
#[derive(Clone, Debug)]
struct Ready {
    name: String,
    shape: Shape,
    has: Adjustable,
}

impl Pool {
    /// Begins to keep the wanted ones, and to remove what an earlier server left; once.
    pub(crate) fn keep(&self, inner: &Arc<Inner>) {
        if !self.kept.swap(true, Ordering::AcqRel) {
            let stopped = self.stop.clone().cancelled_owned();
            let keeping = keeper::keep(inner.clone());
            self.work.spawn(async move {
                tokio::select! {
                    () = keeping => {}
                    () = stopped => {}
                }
            });
        }
    }

    /// Takes one out, best one that needs no change.
    fn take(&self, shape: &Shape, wanted: Adjustable) -> Option<Ready> {
        let mut ready = locked(&self.ready);
        let fits = |one: &Ready| one.shape == *shape;
        let at = ready
            .iter()
            .position(|one| fits(one) && one.has == wanted)
            .or_else(|| ready.iter().position(fits))?;
        let one = ready.swap_remove(at);
        drop(ready);
        self.taken.notify_one();
        Some(one)
    }
}

/// A warm container made into the sandbox that `making` describes; none when there is none that
/// fits, or none that works.
pub(crate) async fn claim(
    inner: &Inner,
    making: &Making,
    spec: &BoxSpec,
) -> Option<Arc<AgentSandbox>> {
    let shape = Shape::of(&making.body);
    let wanted = Adjustable::of(&making.body);
    while let Some(ready) = inner.warm.take(&shape, wanted) {
        match rename(inner, &ready.name, &making.name).await {
            Ok(()) => {}
            // The name is taken: making it the usual way says so.
            Err(error) if error.is_conflict() => {
                locked(&inner.warm.ready).push(ready);
                return None;
            }
            Err(error) => {
                tracing::debug!(container = ready.name, %error, "A warm container is gone");
                continue;
            }
        }
        match hand_over(inner, &ready, wanted, making, spec).await {
            Ok(sandbox) => return Some(sandbox),
            Err(error) => {
                tracing::info!(sandbox_id = %spec.id, %error, "A warm container could not be used");
                // Nothing may stand in the way of the usual way; a failure shows there.
                let _ = removal::container(inner, &making.name).await;
            }
        }
    }
    None
}

async fn rename(inner: &Inner, from: &str, to: &str) -> Result<(), EngineError> {
    let (from, name) = (from.to_owned(), to.to_owned());
    let renaming = inner
        .engine
        .ask("hand a warm container over", QUICK, |docker| async move {
            docker
                .rename_container(&from, RenameContainerOptions { name })
                .await
        });
    renaming.await
}

async fn hand_over(
    inner: &Inner,
    ready: &Ready,
    wanted: Adjustable,
    making: &Making,
    spec: &BoxSpec,
) -> Result<Arc<AgentSandbox>, ProviderError> {
    if ready.has != wanted {
        let (name, limits) = (making.name.clone(), wanted.update());
        adjust(inner, name, limits).await?;
    }
    create::taken_over(inner, making.clone(), spec).await
}

async fn adjust(
    inner: &Inner,
    name: String,
    limits: ContainerUpdateBody,
) -> Result<(), EngineError> {
    let updating = inner
        .engine
        .ask("limit a warm container", QUICK, |docker| async move {
            docker.update_container(&name, limits).await
        });
    updating.await
}

/// Ends the keeping and removes what was kept: a server that is off leaves nothing that waits.
pub(crate) async fn close(inner: &Inner) {
    let pool = &inner.warm;
    if !pool.kept.load(Ordering::Acquire) {
        return;
    }
    pool.stop.cancel();
    pool.work.close();
    let ending = async {
        pool.work.wait().await;
        locked(&pool.ready).clear();
        keeper::remove_all(inner).await
    };
    match tokio::time::timeout(CLOSE_LIMIT, ending).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "Warm containers are left in the engine"),
        Err(_) => tracing::warn!("Warm containers may be left in the engine, which is slow"),
    }
}
