//! Trial containers, which find out what an engine can do, and the image they are made from.
//!
//! The image is made by this server and empty: the agent needs nothing in it, so a trial depends on
//! no other image and on no registry. What an interrupted trial leaves, the next probe removes.

use std::path::PathBuf;
use std::sync::Arc;

use bollard::body_full;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::CreateImageOptions;
use bytes::Bytes;
use futures_util::StreamExt as _;
use stacyvm_provider::ops::{Configure, OpError, ReadRange};
use stacyvm_provider::prelude::*;
use stacyvm_provider::{AgentSandbox, BoxSpec, NetworkMode, ProviderError};
use stacyvm_types::{Isolation, SandboxId, Vcpus};

use crate::agent::{AgentSource, AgentUser};
use crate::agent_volume;
use crate::containers::Containers;
use crate::engine::{EngineError, WORK_TIMEOUT};
use crate::images::EngineImages;
use crate::machine::Machine;
use crate::names::TRIAL_REPOSITORY;
use crate::parameters::{self, ContainerDefaults, Resolved};
use crate::runtimes::Runtime;
use crate::start::{ContainerPlan, ContainerStarter};

const TAG: &str = "1";
/// A tar archive without entries: two empty blocks.
const EMPTY_ARCHIVE: [u8; 1024] = [0; 1024];
/// The limits of a trial container.
const MEMORY_MB: u64 = 64;
const PIDS: u32 = 32;
const OPEN_FILES: u64 = 1024;
/// The disk limit that is tried.
const DISK_MB: u64 = 64;
/// How much of `/proc/version` is read, bytes.
const MAX_VERSION_BYTES: usize = 512;
const KERNEL_STEP: &str = "ask a trial for its kernel";

/// Makes trial containers.
#[derive(Debug)]
pub(crate) struct Trials {
    pub(crate) containers: Containers,
    pub(crate) starter: ContainerStarter,
    pub(crate) images: Arc<EngineImages>,
    pub(crate) defaults: ContainerDefaults,
    /// The agent program on this machine.
    pub(crate) agent: PathBuf,
}

impl Trials {
    /// Makes the image of trials unless the engine has it, and returns its id.
    pub(crate) async fn image(&self) -> Result<String, ProviderError> {
        let name = format!("{TRIAL_REPOSITORY}:{TAG}");
        if let Some(found) = self.images.find(&name).await? {
            return Ok(found.id);
        }
        let engine = &self.containers.engine;
        let step = "make the image of trials";
        let importing = engine.request(step, WORK_TIMEOUT, |docker| async move {
            let options = CreateImageOptions {
                from_src: Some("-".to_owned()),
                repo: Some(TRIAL_REPOSITORY.to_owned()),
                tag: Some(TAG.to_owned()),
                ..CreateImageOptions::default()
            };
            let archive = body_full(Bytes::from_static(&EMPTY_ARCHIVE));
            let mut lines = docker.create_image(Some(options), Some(archive), None);
            while let Some(line) = lines.next().await {
                line?;
            }
            Ok(())
        });
        importing.await?;
        self.images.require(&name).await.map(|found| found.id)
    }

    /// How the agent gets into a container: mounted where the engine sees this machine's files, else
    /// in a volume that is filled with it.
    pub(crate) async fn agent_source(&self, image: &str) -> Result<AgentSource, ProviderError> {
        if !self.containers.engine.address().is_remote() {
            let file = AgentSource::File(self.agent.to_string_lossy().into_owned());
            let host = HostConfig {
                mounts: Some(vec![file.mount()]),
                ..HostConfig::default()
            };
            match self.create_without_starting(image, host).await {
                Ok(()) => return Ok(file),
                // The engine runs on another machine, or this server in a container that was given
                // the engine's socket.
                Err(error) if error.refusal().is_some_and(is_missing_source) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let volume = agent_volume::ensure(&self.containers, &self.agent, image).await?;
        Ok(AgentSource::Volume(volume))
    }

    /// Whether the storage driver limits what a container writes.
    pub(crate) async fn has_disk_limit(&self, image: &str) -> Result<bool, ProviderError> {
        let size = ("size".to_owned(), format!("{DISK_MB}m"));
        let host = HostConfig {
            storage_opt: Some([size].into()),
            ..HostConfig::default()
        };
        match self.create_without_starting(image, host).await {
            Ok(()) => Ok(true),
            Err(EngineError::Refused { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts a container of a runtime and returns the release of the kernel that its agent sees.
    pub(crate) async fn kernel(
        &self,
        machine: &Machine,
        runtime: &Runtime,
    ) -> Result<String, ProviderError> {
        let plan = self.plan(machine, runtime)?;
        let release = async { kernel_release(&*self.starter.start(&plan).await?).await };
        let release = release.await;
        self.containers.remove(&plan.name).await?;
        release
    }

    /// Removes the containers that interrupted trials have left, also those of an earlier server.
    pub(crate) async fn remove_leftovers(&self) -> Result<(), EngineError> {
        for found in self.containers.list().await? {
            let names = found.names.unwrap_or_default();
            let is_trial = |name: &&String| self.containers.names.is_trial(name);
            let Some(name) = names.iter().find(is_trial) else {
                continue;
            };
            let name = name.trim_start_matches('/');
            if let Err(error) = self.containers.remove(name).await {
                tracing::warn!(container = name, %error, "What a trial left cannot be removed");
            }
        }
        Ok(())
    }

    fn plan(&self, machine: &Machine, runtime: &Runtime) -> Result<ContainerPlan, ProviderError> {
        let resolved = Resolved {
            image: &machine.trial_image,
            runtime,
            agent: &machine.agent,
            user: AgentUser::Default,
            network: "none",
            name_servers: None,
            cores: machine.cores,
            max_open_files: OPEN_FILES,
            labels: Default::default(),
        };
        let mut body = parameters::container_body(&self.defaults, &spec(), &resolved)?;
        // Without the label of a sandbox.
        body.labels = Some(self.containers.names.labels(None));
        Ok(ContainerPlan {
            name: self.containers.new_trial_name(),
            body,
            runtime: runtime.kind,
            configure: Configure::default(),
            no_such_user: String::new(),
        })
    }

    /// Creates a container that is never started, and removes it.
    async fn create_without_starting(
        &self,
        image: &str,
        host: HostConfig,
    ) -> Result<(), EngineError> {
        let name = self.containers.new_trial_name();
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(vec!["/never".to_owned()]),
            labels: Some(self.containers.names.labels(None)),
            network_disabled: Some(true),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        let created = self.containers.create("try a container", &name, body).await;
        if let Err(error) = self.containers.remove(&name).await {
            tracing::warn!(%error, "A trial's container cannot be removed");
        }
        created
    }
}

fn is_missing_source(refusal: &str) -> bool {
    refusal.contains("bind source path does not exist") || refusal.contains("not shared")
}

/// Reads the kernel's release in a sandbox.
async fn kernel_release(sandbox: &AgentSandbox) -> Result<String, ProviderError> {
    let failed = |error: OpError| ProviderError::backend(KERNEL_STEP, error.to_string(), error);
    // gVisor has no /proc/sys/kernel/osrelease.
    let file = sandbox.read("/proc/version", ReadRange::default());
    let mut file = file.await.map_err(failed)?;
    let mut version = Vec::new();
    while let Some(chunk) = file.data.recv().await {
        version.extend(chunk.map_err(failed)?);
        version.truncate(MAX_VERSION_BYTES);
    }
    parse_release(&String::from_utf8_lossy(&version)).ok_or_else(|| ProviderError::Backend {
        step: KERNEL_STEP,
        message: "its /proc/version names no release".to_owned(),
        source: None,
    })
}

/// The release in `Linux version RELEASE …` (proc_version(5)).
fn parse_release(version: &str) -> Option<String> {
    let rest = version.trim_start().strip_prefix("Linux version ")?;
    rest.split_ascii_whitespace().next().map(str::to_owned)
}

fn spec() -> BoxSpec {
    BoxSpec {
        id: SandboxId::from_u32(0),
        image: TRIAL_REPOSITORY.to_owned(),
        isolation: Isolation::Container,
        memory_mb: MEMORY_MB,
        vcpus: Vcpus::ONE,
        pids_limit: PIDS,
        open_files: OPEN_FILES,
        disk_mb: None,
        read_only_rootfs: false,
        network: NetworkMode::None,
        user: None,
        workdir: None,
        env: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_release;

    #[test]
    fn a_kernel_says_its_release() {
        let linux = "Linux version 6.18.1-x (builder@host) (gcc 12) #1 SMP\n";
        assert_eq!(parse_release(linux).as_deref(), Some("6.18.1-x"));
        assert_eq!(
            parse_release("Linux version 4.4.0 #1 SMP").as_deref(),
            Some("4.4.0")
        );
        assert_eq!(parse_release("Linux version "), None);
        assert_eq!(parse_release("FreeBSD 14"), None);
    }
}
