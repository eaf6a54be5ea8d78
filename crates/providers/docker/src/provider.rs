//! The provider itself, as the orchestrator calls it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bollard::models::ContainerSummaryStateEnum as State;
use stacyvm_provider::{
    BoxInfo, BoxMonitor, BoxSpec, BoxState, Boxes, Capability, Egress, Health, ImageHold, ImageOps,
    ImageSource, NetworkMode, Networks, Notice, Provider, ProviderError, ProviderInfo, SandboxOps,
    Unclaimed,
};
use stacyvm_types::{Isolation, SandboxId, SandboxStats};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::connections::Connections;
use crate::containers::Containers;
use crate::engine::Engine;
use crate::images::{EngineImages, Puller};
use crate::names::{EngineNames, is_valid_tag};
use crate::network::Network;
use crate::parameters::{Capabilities, ContainerDefaults};
use crate::plan::Planner;
use crate::probe::EngineProbe;
use crate::sandboxes::Sandboxes;
use crate::settings::DockerSettings;
use crate::start::ContainerStarter;
use crate::stats;
use crate::trial::Trials;
use crate::warm::WarmContainers;
use crate::watch::EventWatcher;

/// How long creations under way may take to end when the provider is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(45);

/// Sandboxes as containers of a Docker Engine.
#[derive(Debug)]
pub struct DockerProvider {
    engine: Arc<Engine>,
    containers: Containers,
    images: Arc<EngineImages>,
    network: Arc<Network>,
    probe: Arc<EngineProbe>,
    sandboxes: Arc<Sandboxes>,
    watcher: EventWatcher,
    default_image: String,
    /// The creations under way, which go on when their callers have gone.
    creations: TaskTracker,
}

impl DockerProvider {
    /// Sends no request to the engine, which may be absent now and later.
    ///
    /// # Errors
    /// `Invalid` for invalid settings.
    pub fn new(settings: DockerSettings) -> Result<Self, ProviderError> {
        if !is_valid_tag(&settings.tag) {
            return Err(ProviderError::Invalid(format!(
                "the tag {:?} may only have lower-case letters, digits and \"-\", at most 40",
                settings.tag
            )));
        }
        let defaults = container_defaults(&settings)?;
        let engine = Arc::new(Engine::new(settings.address));
        let containers = Containers {
            engine: engine.clone(),
            names: defaults.names.clone(),
        };
        let starter = ContainerStarter {
            containers: containers.clone(),
            attach_only: settings.attach_only,
        };
        let puller = Puller {
            engine: engine.clone(),
            platform: settings.platform,
            credentials: settings.credentials,
        };
        let images = EngineImages::new(engine.clone(), puller, settings.pull_missing);
        let images = Arc::new(images);
        let network = Network::new(engine.clone(), defaults.names.clone(), settings.network);
        let network = Arc::new(network);
        let trials = Trials {
            containers: containers.clone(),
            starter: starter.clone(),
            images: images.clone(),
            defaults: defaults.clone(),
            agent: settings.agent,
        };
        let has_seccomp_option = defaults.seccomp.option().is_some();
        let probe = EngineProbe::new(engine.clone(), trials, settings.runtime, has_seccomp_option);
        let probe = Arc::new(probe);
        let planner = Arc::new(Planner::new(
            images.clone(),
            probe.clone(),
            network.clone(),
            defaults,
            settings.traefik,
        ));
        let sandboxes = Sandboxes {
            containers: containers.clone(),
            probe: probe.clone(),
            planner: planner.clone(),
            starter: starter.clone(),
            warm: WarmContainers::new(starter, planner, settings.warm),
            connections: Connections::default(),
        };
        Ok(Self {
            engine,
            images,
            network,
            probe,
            sandboxes: Arc::new(sandboxes),
            watcher: EventWatcher::new(containers.clone()),
            containers,
            default_image: settings.default_image,
            creations: TaskTracker::new(),
        })
    }

    /// Whether an engine answers at all, within `limit`.
    pub async fn answers(&self, limit: Duration) -> bool {
        let pinging = self.engine.request(
            "ask the engine whether it is there",
            limit,
            |docker| async move { docker.ping().await },
        );
        tokio::time::timeout(limit, pinging)
            .await
            .is_ok_and(|answer| answer.is_ok())
    }
}

fn container_defaults(settings: &DockerSettings) -> Result<ContainerDefaults, ProviderError> {
    Ok(ContainerDefaults {
        names: EngineNames::new(settings.tag.clone()),
        seccomp: settings.seccomp.clone(),
        root_caps: Capabilities::of_root(&settings.dropped_caps, &settings.added_caps)?,
        read_only_rootfs: settings.read_only_rootfs,
        pids_limit: settings.pids_limit,
        tmp_size_mb: settings.tmp_size_mb,
        shm_size_mb: settings.shm_size_mb,
    })
}

/// Removes a sandbox whose creator has gone before it was complete.
async fn remove_unclaimed(sandboxes: Arc<Sandboxes>, id: SandboxId) {
    if let Err(error) = sandboxes.remove(&id).await {
        tracing::error!(sandbox_id = %id, %error, "A sandbox without a caller cannot be removed");
    }
}

impl ProviderInfo for DockerProvider {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn isolation(&self) -> Isolation {
        let machine = self.probe.found();
        machine.map_or(Isolation::Container, |machine| machine.offered[0].1)
    }

    fn isolations(&self) -> Vec<Isolation> {
        let machine = self.probe.found();
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
        let machine = self.probe.found();
        if machine.is_some_and(|machine| machine.disk_limit) {
            all.push(Capability::DiskLimit);
        }
        if self.network.is_offered() {
            all.push(Capability::NetworkBridge);
        }
        all
    }

    fn default_image(&self) -> &str {
        &self.default_image
    }

    fn default_network(&self) -> NetworkMode {
        self.network.default_mode()
    }

    fn degradations(&self) -> Vec<String> {
        let machine = self.probe.found();
        let mut all = machine.map_or_else(Vec::new, |machine| machine.degradations.clone());
        all.extend(self.network.degradations());
        all
    }
}

#[async_trait]
impl Provider for DockerProvider {
    async fn health(&self) -> Health {
        let started = Instant::now();
        let examined = async {
            self.probe.examine().await?;
            self.network.ensure().await
        }
        .await;
        Health {
            healthy: examined.is_ok(),
            error: examined.err().map(|error| error.to_string()),
            latency: started.elapsed(),
        }
    }

    fn images(&self) -> Option<Arc<dyn ImageOps>> {
        Some(self.images.clone())
    }

    fn networks(&self) -> Option<&dyn Networks> {
        Some(self)
    }

    async fn close(&self) {
        self.creations.close();
        if tokio::time::timeout(CLOSE_TIMEOUT, self.creations.wait())
            .await
            .is_err()
        {
            tracing::warn!("Sandboxes were still being made when the provider docker closed");
        }
        self.sandboxes.warm.close().await;
        self.watcher.close().await;
        // Last, because warm containers are connected to it.
        self.network.close().await;
    }
}

#[async_trait]
impl Boxes for DockerProvider {
    async fn create(&self, spec: &BoxSpec) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        if self.creations.is_closed() {
            return Err(ProviderError::Unavailable(
                "provider docker is shutting down".to_owned(),
            ));
        }
        let (answer, caller) = tokio::sync::oneshot::channel();
        let (sandboxes, spec) = (self.sandboxes.clone(), spec.clone());
        let creation = async move {
            let created = sandboxes.create(&spec).await;
            // Dropped when the caller has gone, which removes the sandbox.
            let _ = answer.send(created.map(|sandbox| {
                let removing = remove_unclaimed(sandboxes, spec.id);
                Unclaimed::new(sandbox, removing.in_current_span())
            }));
        };
        self.creations.spawn(creation.in_current_span());
        let created = caller.await.map_err(|error| {
            ProviderError::backend("make the sandbox", "the server's task ended", error)
        })?;
        Ok(created?.claim())
    }

    async fn open(&self, id: &SandboxId) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        let sandbox = self.sandboxes.open(id).await?;
        Ok(sandbox)
    }

    async fn list(&self) -> Result<Vec<BoxInfo>, ProviderError> {
        // A server lists its sandboxes at its start, and other users of this crate, such as
        // `stacyvm doctor`, never do.
        self.sandboxes.warm.start();
        let names = &self.containers.names;
        let all = self.containers.list().await?;
        let mut boxes: Vec<BoxInfo> = all
            .into_iter()
            .filter_map(|found| {
                let id = found
                    .names?
                    .iter()
                    .find_map(|name| names.sandbox_of(name))?;
                let state = match found.state {
                    Some(State::RUNNING) => BoxState::Running,
                    Some(State::PAUSED) => BoxState::Paused,
                    Some(State::CREATED | State::EMPTY) | None => BoxState::Partial,
                    Some(_) => BoxState::Dead,
                };
                Some(BoxInfo { id, state })
            })
            .collect();
        boxes.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
        Ok(boxes)
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), ProviderError> {
        self.sandboxes.remove(id).await
    }
}

#[async_trait]
impl BoxMonitor for DockerProvider {
    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats, ProviderError> {
        let connection = self.sandboxes.connection(id).await?;
        stats::measure(&connection).await.map_err(|error| {
            ProviderError::backend("measure the sandbox", error.to_string(), error)
        })
    }

    async fn wait_exit(&self, id: &SandboxId) {
        self.watcher.wait_exit(id).await;
    }

    async fn cause_of_end(&self, id: &SandboxId) -> Option<&'static str> {
        self.watcher.cause_of_end(id).await
    }

    fn notices(&self) -> Option<tokio::sync::mpsc::Receiver<Notice>> {
        self.watcher.notices()
    }
}

#[async_trait]
impl ImageSource for DockerProvider {
    async fn check_image(&self, image: &str) -> Result<(), ProviderError> {
        self.images.check(image).await
    }

    async fn prepare_image(&self, image: &str) -> Result<ImageHold, ProviderError> {
        self.images.prepare(image).await?;
        Ok(ImageHold::default())
    }
}

#[async_trait]
impl Networks for DockerProvider {
    async fn network(&self, id: &SandboxId) -> Result<NetworkMode, ProviderError> {
        let network = self.sandboxes.network(id).await?;
        Ok(self.network.mode_of(&network))
    }

    async fn set_egress(&self, _: &SandboxId, _: &Egress) -> Result<(), ProviderError> {
        Err(ProviderError::Unsupported(format!(
            "provider docker lacks the capability {}",
            Capability::EgressDomains.as_str()
        )))
    }
}
