//! The provider itself: what the orchestrator calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bollard::models::{ContainerStateStatusEnum as Status, ContainerSummaryStateEnum as Listed};
use bollard::query_parameters::ListContainersOptions;
use stacyvm_provider::{
    AgentSandbox, BoxInfo, BoxMonitor, BoxSpec, BoxState, Boxes, Capability, Egress, Health,
    ImageHold, ImageOps, ImageSource, NetworkMode, Networks, Notice, Provider, ProviderError,
    ProviderInfo, SandboxOps, Unclaimed,
};
use stacyvm_types::{Isolation, SandboxId, SandboxStats};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::connector::ContainerConnector;
use crate::engine::{Engine, QUICK};
use crate::inner::Inner;
use crate::names::{Names, valid_tag};
use crate::parameters::{Capabilities, House};
use crate::settings::DockerSettings;
use crate::{create, images, machine, removal, stats, warm};

/// How long operations under way may take to end when the provider is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(45);

/// Sandboxes as containers of a Docker Engine.
#[derive(Debug)]
pub struct DockerProvider {
    inner: Arc<Inner>,
    /// Sandboxes that are being made, also when who wanted them has gone.
    makings: TaskTracker,
}

impl DockerProvider {
    /// Asks the engine nothing yet: it may come later, and go in between.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be.
    pub fn new(settings: DockerSettings) -> Result<Self, ProviderError> {
        if !valid_tag(&settings.tag) {
            return Err(ProviderError::Invalid(format!(
                "the tag {:?} may only have lower-case letters, digits and \"-\", at most 40",
                settings.tag
            )));
        }
        let house = House {
            names: Names::new(settings.tag.clone()),
            seccomp: settings.seccomp.clone(),
            root_caps: Capabilities::of_root(&settings.dropped_caps, &settings.added_caps)?,
            read_only_rootfs: settings.read_only_rootfs,
            pids_limit: settings.pids_limit,
            tmp_size_mb: settings.tmp_size_mb,
            shm_size_mb: settings.shm_size_mb,
        };
        let engine = Arc::new(Engine::new(settings.address.clone()));
        Ok(Self {
            inner: Arc::new(Inner::new(engine, settings, house)),
            makings: TaskTracker::new(),
        })
    }

    /// Whether an engine answers at all, within `limit`.
    pub async fn answers(&self, limit: Duration) -> bool {
        let asking = self.inner.engine.ask(
            "ask the engine whether it is there",
            limit,
            |docker| async move { docker.ping().await },
        );
        tokio::time::timeout(limit, asking)
            .await
            .is_ok_and(|answer| answer.is_ok())
    }

    /// The connection to a sandbox that exists.
    async fn opened(&self, id: &SandboxId) -> Result<Arc<AgentSandbox>, ProviderError> {
        let inner = &self.inner;
        let name = inner.house.names.container(id);
        let found = inner.inspect(&name).await?.ok_or_else(|| no_such(id))?;
        let failed = |message: &str| ProviderError::Backend {
            step: "open the sandbox",
            message: message.to_owned(),
            source: None,
        };
        match found.state.and_then(|state| state.status) {
            Some(Status::RUNNING) => {}
            Some(Status::PAUSED) => return Err(failed("its container is paused")),
            _ => return Err(failed("its container does not run")),
        }
        let host = found.host_config.unwrap_or_default();
        let machine = machine::current(inner).await?;
        let kind = machine.kind_of(host.runtime.as_deref().unwrap_or_default());
        let known = inner.known(id);
        let sandbox = known.map_or_else(
            || {
                let connector = ContainerConnector::new(
                    inner.engine.clone(),
                    name,
                    kind,
                    inner.settings.attach_only,
                );
                Arc::new(AgentSandbox::new(connector, None))
            },
            |known| known.sandbox.clone(),
        );
        sandbox.connect().await.map_err(|error| {
            ProviderError::backend("open the sandbox", error.to_string(), error)
        })?;
        inner.remember(id, sandbox.clone(), create::limits_in(&host));
        Ok(sandbox)
    }
}

/// Removes a sandbox that never arrived at the caller who asked for it.
async fn remove_unclaimed(inner: Arc<Inner>, id: SandboxId) {
    if let Err(error) = removal::sandbox(&inner, &id).await {
        tracing::error!(sandbox_id = %id, %error, "A sandbox that nobody waits for cannot be removed");
    }
}

fn no_such(id: &SandboxId) -> ProviderError {
    ProviderError::NotFound(format!("sandbox {id} not found"))
}

impl ProviderInfo for DockerProvider {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn isolation(&self) -> Isolation {
        let machine = self.inner.known_machine();
        machine.map_or(Isolation::Container, |machine| machine.offered[0].1)
    }

    fn isolations(&self) -> Vec<Isolation> {
        let machine = self.inner.known_machine();
        machine.map_or_else(
            || vec![Isolation::Container],
            |machine| machine.offered.iter().map(|(_, level)| *level).collect(),
        )
    }

    fn capabilities(&self) -> Vec<Capability> {
        let mut all = vec![
            Capability::Exec,
            Capability::Files,
            Capability::Pty,
            Capability::DetachedExec,
            Capability::Forward,
            Capability::ResourceLimits,
            Capability::ReadOnlyRootfs,
            Capability::NetworkNone,
            Capability::Images,
            Capability::Stats,
        ];
        let machine = self.inner.known_machine();
        if machine.is_some_and(|machine| machine.disk_limit) {
            all.push(Capability::DiskLimit);
        }
        if self.inner.network.is_offered() {
            all.push(Capability::NetworkBridge);
        }
        all
    }

    fn default_image(&self) -> &str {
        &self.inner.settings.default_image
    }

    fn default_network(&self) -> NetworkMode {
        self.inner.default_network()
    }

    fn degradations(&self) -> Vec<String> {
        let machine = self.inner.known_machine();
        let mut all = machine.map_or_else(Vec::new, |machine| machine.degradations.clone());
        all.extend(self.inner.network.degradations());
        all
    }
}

#[async_trait]
impl Provider for DockerProvider {
    async fn health(&self) -> Health {
        let started = Instant::now();
        let examined = async {
            machine::examine(&self.inner).await?;
            self.inner.network.ensure().await
        }
        .await;
        Health {
            healthy: examined.is_ok(),
            error: examined.err().map(|error| error.to_string()),
            latency: started.elapsed(),
        }
    }

    fn images(&self) -> Option<Arc<dyn ImageOps>> {
        Some(Arc::new(images::EngineImages::new(self.inner.clone())))
    }

    fn networks(&self) -> Option<&dyn Networks> {
        Some(self)
    }

    async fn close(&self) {
        self.makings.close();
        if tokio::time::timeout(CLOSE_LIMIT, self.makings.wait())
            .await
            .is_err()
        {
            tracing::warn!("Sandboxes were still being made when the provider docker closed");
        }
        warm::close(&self.inner).await;
        self.inner.watch.close().await;
        // Last: those that were made ahead are connected to it.
        self.inner.network.close().await;
    }
}

#[async_trait]
impl Boxes for DockerProvider {
    async fn create(&self, spec: &BoxSpec) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        if self.makings.is_closed() {
            return Err(ProviderError::Unavailable(
                "provider docker is shutting down".to_owned(),
            ));
        }
        let (answer, caller) = tokio::sync::oneshot::channel();
        let (inner, spec) = (self.inner.clone(), spec.clone());
        let making = async move {
            let made = create::sandbox(&inner, &spec).await;
            // Dropped when the caller has gone, and then it removes the sandbox.
            let _ = answer.send(made.map(|sandbox| {
                let removing = remove_unclaimed(inner, spec.id);
                Unclaimed::new(sandbox, removing.in_current_span())
            }));
        };
        self.makings.spawn(making.in_current_span());
        let made = caller.await.map_err(|error| {
            ProviderError::backend("make the sandbox", "the server's task ended", error)
        })?;
        Ok(made?.claim())
    }

    async fn open(&self, id: &SandboxId) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        let sandbox = self.opened(id).await?;
        Ok(sandbox)
    }

    async fn list(&self) -> Result<Vec<BoxInfo>, ProviderError> {
        // Only the server that they belong to asks for all of them.
        self.inner.warm.keep(&self.inner);
        let names = &self.inner.house.names;
        let options = ListContainersOptions {
            all: true,
            filters: Some(names.filter()),
            ..ListContainersOptions::default()
        };
        let listing = self
            .inner
            .engine
            .ask("list the containers", QUICK, |docker| async move {
                docker.list_containers(Some(options)).await
            });
        let mut boxes: Vec<BoxInfo> = listing
            .await?
            .into_iter()
            .filter_map(|found| {
                let id = found
                    .names?
                    .iter()
                    .find_map(|name| names.sandbox_of(name))?;
                let state = match found.state {
                    Some(Listed::RUNNING) => BoxState::Running,
                    Some(Listed::PAUSED) => BoxState::Paused,
                    Some(Listed::CREATED | Listed::EMPTY) | None => BoxState::Partial,
                    Some(_) => BoxState::Dead,
                };
                Some(BoxInfo { id, state })
            })
            .collect();
        boxes.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
        Ok(boxes)
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), ProviderError> {
        removal::sandbox(&self.inner, id).await
    }
}

#[async_trait]
impl BoxMonitor for DockerProvider {
    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats, ProviderError> {
        if self.inner.known(id).is_none() {
            self.opened(id).await?;
        }
        let known = self.inner.known(id).ok_or_else(|| no_such(id))?;
        stats::measure(&known).await.map_err(|error| {
            ProviderError::backend("measure the sandbox", error.to_string(), error)
        })
    }

    async fn wait_exit(&self, id: &SandboxId) {
        self.inner.watch.wait_exit(id).await;
    }

    async fn cause_of_end(&self, id: &SandboxId) -> Option<&'static str> {
        self.inner.watch.cause_of_end(id).await
    }

    fn notices(&self) -> Option<tokio::sync::mpsc::Receiver<Notice>> {
        self.inner.watch.notices()
    }
}

#[async_trait]
impl ImageSource for DockerProvider {
    async fn check_image(&self, image: &str) -> Result<(), ProviderError> {
        match images::find(&self.inner, image).await? {
            None if !self.inner.settings.pull_missing => Err(images::missing(image)),
            _ => Ok(()),
        }
    }

    async fn prepare_image(&self, image: &str) -> Result<ImageHold, ProviderError> {
        images::prepare(&self.inner, image).await?;
        Ok(ImageHold::default())
    }
}

#[async_trait]
impl Networks for DockerProvider {
    async fn network(&self, id: &SandboxId) -> Result<NetworkMode, ProviderError> {
        let name = self.inner.house.names.container(id);
        let found = self
            .inner
            .inspect(&name)
            .await?
            .ok_or_else(|| no_such(id))?;
        let network = found.host_config.unwrap_or_default().network_mode;
        Ok(self.inner.network.mode_of(&network.unwrap_or_default()))
    }

    async fn set_egress(&self, _: &SandboxId, _: &Egress) -> Result<(), ProviderError> {
        Err(ProviderError::Unsupported(format!(
            "provider docker lacks the capability {}",
            Capability::EgressDomains.as_str()
        )))
    }
}
