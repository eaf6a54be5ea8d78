//! A provider whose first health check has been taken already.
//!
//! A check makes a sandbox. The start has just made one (or, for `run`, is about to make the only
//! one it needs), and the orchestrator would ask again at once.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use stacyvm_provider::{
    BoxInfo, BoxSpec, Capability, Egress, Health, ImageHold, ImageOps, NetworkMode, Notice,
    Provider, ProviderError, SandboxOps,
};
use stacyvm_types::{Isolation, SandboxId, SandboxStats};

/// Answers the first question for its health with what is known, and hands on everything else.
#[derive(Debug)]
pub(crate) struct Tried {
    inner: Arc<dyn Provider>,
    known: Mutex<Option<Health>>,
}

impl Tried {
    /// `health` is what the check has found.
    pub(crate) fn new(inner: Arc<dyn Provider>, health: Health) -> Self {
        Self {
            inner,
            known: Mutex::new(Some(health)),
        }
    }
}

#[async_trait]
impl Provider for Tried {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn isolation(&self) -> Isolation {
        self.inner.isolation()
    }

    fn isolations(&self) -> Vec<Isolation> {
        self.inner.isolations()
    }

    fn capabilities(&self) -> Vec<Capability> {
        self.inner.capabilities()
    }

    fn default_image(&self) -> &str {
        self.inner.default_image()
    }

    fn default_network(&self) -> NetworkMode {
        self.inner.default_network()
    }

    async fn health(&self) -> Health {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match known {
            Some(health) => health,
            None => self.inner.health().await,
        }
    }

    async fn check_image(&self, image: &str) -> Result<(), ProviderError> {
        self.inner.check_image(image).await
    }

    async fn prepare_image(&self, image: &str) -> Result<ImageHold, ProviderError> {
        self.inner.prepare_image(image).await
    }

    fn images(&self) -> Option<Arc<dyn ImageOps>> {
        self.inner.images()
    }

    async fn create(&self, spec: &BoxSpec) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        self.inner.create(spec).await
    }

    async fn open(&self, id: &SandboxId) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        self.inner.open(id).await
    }

    async fn list(&self) -> Result<Vec<BoxInfo>, ProviderError> {
        self.inner.list().await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), ProviderError> {
        self.inner.destroy(id).await
    }

    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats, ProviderError> {
        self.inner.stats(id).await
    }

    async fn wait_exit(&self, id: &SandboxId) {
        self.inner.wait_exit(id).await;
    }

    async fn cause_of_end(&self, id: &SandboxId) -> Option<&'static str> {
        self.inner.cause_of_end(id).await
    }

    async fn network(&self, id: &SandboxId) -> Result<NetworkMode, ProviderError> {
        self.inner.network(id).await
    }

    async fn set_egress(&self, id: &SandboxId, egress: &Egress) -> Result<(), ProviderError> {
        self.inner.set_egress(id, egress).await
    }

    fn notices(&self) -> Option<tokio::sync::mpsc::Receiver<Notice>> {
        self.inner.notices()
    }

    fn degradations(&self) -> Vec<String> {
        self.inner.degradations()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
