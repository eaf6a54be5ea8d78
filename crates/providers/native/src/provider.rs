//! The provider itself: what the orchestrator calls. Each method delegates to the parts that do the
//! work.

mod health;
mod operations;
mod start;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stacyvm_provider::{
    BoxInfo, BoxMonitor, BoxSpec, Boxes, Capability, Egress, Health, ImageHold, ImageOps,
    ImageSource, NetworkMode, Networks, Notice, Notices, Provider, ProviderError, ProviderInfo,
    SandboxOps,
};
use stacyvm_types::{Isolation, SandboxId, SandboxStats};
use tokio::sync::RwLock;

use crate::blocking::run_blocking;
use crate::boxes::BoxTable;
use crate::create::BoxCreator;
use crate::degradations::Degradations;
use crate::disk::Disks;
use crate::image_ops::{ImageState, NativeImages};
use crate::images::{HOST, ImageResolver};
use crate::launcher::Launchers;
use crate::network::NetworkSupport;
use crate::remove::BoxRemover;
use crate::trash::Trash;
use crate::{cgroups, list, stats};

/// How long operations under way may take to end when the provider is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(45);

/// Sandboxes from kernel namespaces.
#[derive(Debug)]
pub struct NativeProvider {
    boxes: Arc<BoxTable>,
    creator: Arc<BoxCreator>,
    remover: Arc<BoxRemover>,
    images: Arc<ImageResolver>,
    image_state: Arc<ImageState>,
    network: Arc<NetworkSupport>,
    disks: Arc<Disks>,
    trash: Arc<Trash>,
    launchers: Arc<Launchers>,
    degradations: Arc<Degradations>,
    notices: Arc<Notices>,
    cgroup_parent: Arc<str>,
    /// True once closed. Operations that make or remove boxes hold it for reading.
    closed: Arc<RwLock<bool>>,
    /// Follows what changes on the host while the provider runs.
    following: tokio::task::JoinHandle<()>,
    /// Held while the provider runs: two over one directory would give out the same ids twice.
    _lock: File,
}

impl NativeProvider {
    /// Process ids of the launchers that run.
    pub fn launcher_pids(&self) -> Vec<u32> {
        self.launchers.pids()
    }

    /// The host's process id of a box's first process, while it lives.
    pub fn first_process(&self, id: &SandboxId) -> Option<i32> {
        let process = self.boxes.get(id)?.process()?;
        (!process.ended()).then_some(process.pid)
    }
}

impl ProviderInfo for NativeProvider {
    fn name(&self) -> &'static str {
        "native"
    }

    fn isolation(&self) -> Isolation {
        Isolation::Container
    }

    fn isolations(&self) -> Vec<Isolation> {
        vec![self.isolation()]
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
        if let Some(network) = self.network.offered() {
            all.push(Capability::NetworkBridge);
            if network.limits_by_name() {
                all.push(Capability::EgressDomains);
            }
        }
        if self.disks.available() {
            all.push(Capability::DiskLimit);
        }
        all
    }

    fn default_image(&self) -> &str {
        HOST
    }

    fn default_network(&self) -> NetworkMode {
        match self.network.offered() {
            Some(_) => NetworkMode::Bridge(Egress::Open),
            None => NetworkMode::None,
        }
    }

    fn degradations(&self) -> Vec<String> {
        let mut all = self.degradations.all();
        all.extend(self.network.degradations());
        all
    }
}

#[async_trait]
impl Provider for NativeProvider {
    async fn health(&self) -> Health {
        self.try_sandbox().await
    }

    fn images(&self) -> Option<Arc<dyn ImageOps>> {
        Some(Arc::new(NativeImages::new(self.image_state.clone())))
    }

    fn networks(&self) -> Option<&dyn Networks> {
        Some(self)
    }

    async fn close(&self) {
        self.image_state.pulls.close();
        match tokio::time::timeout(CLOSE_TIMEOUT, self.closed.write()).await {
            Ok(mut closed) => *closed = true,
            Err(_) => tracing::warn!("the native provider closes with operations under way"),
        }
        self.launchers.close().await;
        self.following.abort();
        let (boxes, trash, network) =
            (self.boxes.clone(), self.trash.clone(), self.network.clone());
        let cgroup_parent = self.cgroup_parent.clone();
        let _ = tokio::task::spawn_blocking(move || {
            trash.stop();
            network.close(!boxes.leases().is_empty());
            cgroups::remove_empty_parents(&cgroup_parent);
        })
        .await;
    }
}

#[async_trait]
impl Boxes for NativeProvider {
    async fn create(&self, spec: &BoxSpec) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        Ok(self.create_box(spec.clone(), false).await?)
    }

    async fn open(&self, id: &SandboxId) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        Ok(self.open_box(id).await?)
    }

    async fn list(&self) -> Result<Vec<BoxInfo>, ProviderError> {
        let (boxes, cgroup_parent) = (self.boxes.clone(), self.cgroup_parent.clone());
        run_blocking("list the sandboxes", move || {
            list::list(&boxes, &cgroup_parent)
        })
        .await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), ProviderError> {
        self.destroy_box(id).await
    }
}

#[async_trait]
impl BoxMonitor for NativeProvider {
    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats, ProviderError> {
        let entry = self.boxes.get(id).ok_or_else(|| no_such(id))?;
        run_blocking("measure the sandbox", move || Ok(stats::measure(&entry))).await
    }

    async fn wait_exit(&self, id: &SandboxId) {
        let process = self.boxes.get(id).and_then(|entry| entry.process());
        if let Some(process) = process {
            process.wait().await;
        }
    }

    async fn cause_of_end(&self, id: &SandboxId) -> Option<&'static str> {
        self.limit_that_ended(id).await
    }

    fn notices(&self) -> Option<tokio::sync::mpsc::Receiver<Notice>> {
        self.notices.listen()
    }
}

#[async_trait]
impl ImageSource for NativeProvider {
    async fn check_image(&self, image: &str) -> Result<(), ProviderError> {
        self.missing_image(image).await.map(drop)
    }

    async fn prepare_image(&self, image: &str) -> Result<ImageHold, ProviderError> {
        self.hold_image(image).await
    }
}

#[async_trait]
impl Networks for NativeProvider {
    async fn network(&self, id: &SandboxId) -> Result<NetworkMode, ProviderError> {
        let entry = self.boxes.get(id).ok_or_else(|| no_such(id))?;
        let lease = entry.resources().network.clone();
        Ok(lease.map_or(NetworkMode::None, |lease| lease.mode()))
    }

    async fn set_egress(&self, id: &SandboxId, egress: &Egress) -> Result<(), ProviderError> {
        self.change_egress(id, egress).await
    }
}

fn no_such(id: &SandboxId) -> ProviderError {
    ProviderError::NotFound(format!("sandbox {id} not found by provider native"))
}
