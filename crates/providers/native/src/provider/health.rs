//! The health check: it makes a sandbox, waits for its agent, and removes it.

use std::time::Instant;

use stacyvm_provider::{BoxSpec, Boxes as _, Health, NetworkMode, ProviderError};
use stacyvm_types::{Isolation, SandboxId, Vcpus};

use super::NativeProvider;
use crate::blocking::run_blocking;
use crate::images::HOST;

/// Limits of the sandbox of a health check.
const PROBE_MEMORY_MB: u64 = 64;
const PROBE_PIDS: u32 = 32;
const PROBE_FILES: u64 = 1024;

impl NativeProvider {
    pub(super) async fn try_sandbox(&self) -> Health {
        let started = Instant::now();
        let result = self.make_and_remove().await;
        Health {
            healthy: result.is_ok(),
            error: result
                .err()
                .map(|error| format!("{error}; hint: run \"stacyvm doctor\"")),
            latency: started.elapsed(),
        }
    }

    async fn make_and_remove(&self) -> Result<(), ProviderError> {
        self.refresh_host_view().await?;
        let id = self.unused_id()?;
        let made = self.create_box(probe_spec(id.clone()), true).await;
        let removed = self.destroy(&id).await;
        made?;
        removed
    }

    /// Builds the view of the host again when the host has changed, and removes views that no sandbox
    /// uses.
    async fn refresh_host_view(&self) -> Result<(), ProviderError> {
        let (images, boxes, trash) = (self.images.clone(), self.boxes.clone(), self.trash.clone());
        run_blocking("look at the host", move || {
            images.refresh_host()?;
            let views = boxes.host_views();
            let current = images.host_generation();
            let used = |name: &str| name == current || views.contains(name);
            if let Err(error) = images.sweep(&used, &|path| trash.take(path)) {
                tracing::warn!(%error, "old views of the host could not be removed");
            }
            Ok(())
        })
        .await
    }

    fn unused_id(&self) -> Result<SandboxId, ProviderError> {
        loop {
            let mut bytes = [0; 4];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(
                |error| ProviderError::backend("choose an id", error.to_string(), error),
            )?;
            let id = SandboxId::from_u32(u32::from_ne_bytes(bytes));
            if self.boxes.get(&id).is_none() {
                return Ok(id);
            }
        }
    }
}

fn probe_spec(id: SandboxId) -> BoxSpec {
    BoxSpec {
        id,
        image: HOST.to_owned(),
        isolation: Isolation::Container,
        memory_mb: PROBE_MEMORY_MB,
        vcpus: Vcpus::ONE,
        pids_limit: PROBE_PIDS,
        open_files: PROBE_FILES,
        disk_mb: None,
        read_only_rootfs: false,
        network: NetworkMode::None,
        user: None,
        workdir: None,
        env: Default::default(),
    }
}
