//! Warm containers: made ahead, with a live agent in them, for future sandboxes.
//!
//! The one rule: a container's name says which sandbox it is. A warm container becomes a sandbox by
//! being renamed, which the engine does in one step, so a server that is killed at any moment leaves
//! either a warm container or a sandbox, and nothing in between.

mod keeper;
mod pool;
mod settings;
mod shape;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stacyvm_provider::{AgentSandbox, BoxSpec, ProviderError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::containers::Containers;
use crate::plan::Planner;
use crate::start::{ContainerPlan, ContainerStarter};
use keeper::Keeper;
use pool::{Pool, ReadyContainer};
pub use settings::WarmSettings;
use shape::{AdjustableLimits, Shape};

/// How long it may take to stop the keeper and remove the containers when the provider is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);

/// The warm containers of one server.
#[derive(Debug)]
pub(crate) struct WarmContainers {
    containers: Containers,
    starter: ContainerStarter,
    pool: Arc<Pool>,
    keeper: Arc<Keeper>,
    /// Whether the keeper was started.
    started: AtomicBool,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl WarmContainers {
    /// Makes no container before [`start`](Self::start).
    pub(crate) fn new(
        starter: ContainerStarter,
        planner: Arc<Planner>,
        settings: WarmSettings,
    ) -> Self {
        let pool = Arc::new(Pool::default());
        let keeper = Keeper {
            containers: starter.containers.clone(),
            starter: starter.clone(),
            planner,
            settings,
            pool: Arc::clone(&pool),
        };
        Self {
            containers: starter.containers.clone(),
            starter,
            pool,
            keeper: Arc::new(keeper),
            started: AtomicBool::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Starts the keeper, which makes the wanted containers and removes those that an earlier server
    /// left, unless it was started before.
    pub(crate) fn start(&self) {
        if self.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let stopped = self.stop.clone().cancelled_owned();
        let keeper = Arc::clone(&self.keeper);
        self.tasks.spawn(async move {
            tokio::select! {
                () = keeper.run() => {}
                () = stopped => {}
            }
        });
    }

    /// Makes the planned sandbox of a warm container; none when no container fits or works.
    pub(crate) async fn claim(
        &self,
        plan: &ContainerPlan,
        spec: &BoxSpec,
    ) -> Option<Arc<AgentSandbox>> {
        let shape = Shape::of(&plan.body);
        let limits = AdjustableLimits::of(&plan.body);
        while let Some(ready) = self.pool.take(&shape, limits) {
            match self.containers.rename(&ready.name, &plan.name).await {
                Ok(()) => {}
                // The sandbox's name is taken, which an ordinary start reports.
                Err(error) if error.is_conflict() => {
                    self.pool.add(ready);
                    return None;
                }
                Err(error) => {
                    tracing::debug!(container = ready.name, %error, "A warm container is gone");
                    continue;
                }
            }
            match self.hand_over(&ready, limits, plan, spec).await {
                Ok(sandbox) => return Some(sandbox),
                Err(error) => {
                    tracing::info!(sandbox_id = %spec.id, %error, "A warm container could not be used");
                    // An ordinary start needs the name, and reports when it is still taken.
                    let _ = self.containers.remove(&plan.name).await;
                }
            }
        }
        None
    }

    async fn hand_over(
        &self,
        ready: &ReadyContainer,
        limits: AdjustableLimits,
        plan: &ContainerPlan,
        spec: &BoxSpec,
    ) -> Result<Arc<AgentSandbox>, ProviderError> {
        if ready.limits != limits {
            self.containers.update(&plan.name, limits.update()).await?;
        }
        let sandbox = self.starter.take_over(plan).await?;
        let starter = &self.starter;
        starter.check_working_directory(plan, spec, sandbox).await
    }

    /// Stops the keeper and removes all warm containers, so that a stopped server leaves none.
    pub(crate) async fn close(&self) {
        if !self.started.load(Ordering::Acquire) {
            return;
        }
        self.stop.cancel();
        self.tasks.close();
        let ending = async {
            self.tasks.wait().await;
            self.pool.clear();
            self.keeper.remove_all().await
        };
        match tokio::time::timeout(CLOSE_TIMEOUT, ending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "Warm containers are left in the engine"),
            Err(_) => tracing::warn!("Warm containers may be left in the engine, which is slow"),
        }
    }
}
