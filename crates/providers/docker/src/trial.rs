//! Containers that only find something out, and the image they are made from.
//!
//! The image is ours and empty: the agent needs nothing in it, so a trial says nothing about any
//! other image and never needs a registry. What a broken-off trial leaves, the next one removes.

use bollard::body_full;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptions, CreateImageOptions};
use bytes::Bytes;
use futures_util::StreamExt as _;
use rustix::rand::{GetRandomFlags, getrandom};
use stacyvm_provider::ops::{Configure, ReadRange};
use stacyvm_provider::prelude::*;
use stacyvm_provider::{BoxSpec, NetworkMode, ProviderError};
use stacyvm_types::{Isolation, SandboxId, Vcpus};

use crate::agent::{Source, User};
use crate::create::{self, Making};
use crate::engine::{EngineError, WORK};
use crate::inner::Inner;
use crate::machine::Machine;
use crate::parameters::{self, Found};
use crate::removal;
use crate::runtimes::Runtime;
use crate::volume;

/// The name of the image of trials.
pub(crate) const REPOSITORY: &str = "stacyvm/trial";
const TAG: &str = "1";
/// Two empty blocks: a tar archive of nothing.
const EMPTY_ARCHIVE: [u8; 1024] = [0; 1024];
/// What a trial's container may use.
const MEMORY_MB: u64 = 64;
const PIDS: u32 = 32;
const FILES: u64 = 1024;
/// A limit of disk to try.
const DISK_MB: u64 = 64;
/// More than is read of what a kernel says of itself, bytes.
const LONGEST_VERSION: usize = 512;

/// Makes the trials' image be there and returns its id.
pub(crate) async fn image(inner: &Inner) -> Result<String, ProviderError> {
    let name = format!("{REPOSITORY}:{TAG}");
    if let Some(found) = crate::images::find(inner, &name).await? {
        return Ok(found.id);
    }
    let step = "make the image of trials";
    let importing = inner.engine.ask(step, WORK, |docker| async move {
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(REPOSITORY.to_owned()),
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
    crate::images::present(inner, &name)
        .await
        .map(|found| found.id)
}

/// Whether the engine sees our files: it mounts the agent's, or else a volume is filled with it.
pub(crate) async fn agent_source(inner: &Inner, image: &str) -> Result<Source, ProviderError> {
    if !inner.engine.address().is_remote() {
        let file = Source::File(inner.settings.agent.to_string_lossy().into_owned());
        let host = HostConfig {
            mounts: Some(vec![file.mount()]),
            ..HostConfig::default()
        };
        match made_without_running(inner, image, host).await {
            Ok(()) => return Ok(file),
            // It runs elsewhere, or we do: in a container that was handed its socket.
            Err(error) if error.refusal().is_some_and(is_missing_source) => {}
            Err(error) => return Err(error.into()),
        }
    }
    volume::with_agent(inner, image).await.map(Source::Volume)
}

fn is_missing_source(refusal: &str) -> bool {
    refusal.contains("bind source path does not exist") || refusal.contains("not shared")
}

/// Whether the storage driver limits what a container writes.
pub(crate) async fn disk_limit(inner: &Inner, image: &str) -> Result<bool, ProviderError> {
    let size = ("size".to_owned(), format!("{DISK_MB}m"));
    let host = HostConfig {
        storage_opt: Some([size].into()),
        ..HostConfig::default()
    };
    match made_without_running(inner, image, host).await {
        Ok(()) => Ok(true),
        Err(EngineError::Refused { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes a container that is never started, and removes it.
async fn made_without_running(
    inner: &Inner,
    image: &str,
    host: HostConfig,
) -> Result<(), EngineError> {
    let name = name(inner);
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec!["/never".to_owned()]),
        labels: Some(inner.house.names.labels(None)),
        network_disabled: Some(true),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions {
        name: Some(name.clone()),
        ..CreateContainerOptions::default()
    };
    let making = inner
        .engine
        .ask("try a container", WORK, |docker| async move {
            docker.create_container(Some(options), body).await
        });
    let made = making.await;
    if let Err(error) = removal::container(inner, &name).await {
        tracing::warn!(%error, "A trial's container cannot be removed");
    }
    made.map(drop)
}

/// Makes a container of a runtime, hears its agent and asks for the kernel's release.
pub(crate) async fn kernel(
    inner: &Inner,
    machine: &Machine,
    runtime: &Runtime,
) -> Result<String, ProviderError> {
    let name = name(inner);
    let found = Found {
        image: &machine.trial_image,
        runtime,
        agent: &machine.agent,
        user: User::Usual,
        network: "none",
        name_servers: None,
        cores: machine.cores,
        most_files: FILES,
        labels: Default::default(),
    };
    let mut body = parameters::container(&inner.house, &spec(), &found)?;
    // Else it would be labelled as a sandbox's.
    body.labels = Some(inner.house.names.labels(None));
    let making = Making {
        name: name.clone(),
        body,
        kind: runtime.kind,
        configure: Configure::default(),
        user_words: String::new(),
    };
    let asked = async {
        let sandbox = create::start(inner, &making).await?;
        let failed = |error: stacyvm_provider::ops::OpError| {
            ProviderError::backend("ask a trial for its kernel", error.to_string(), error)
        };
        // gVisor has no /proc/sys/kernel/osrelease.
        let file = sandbox.read("/proc/version", ReadRange::default());
        let mut file = file.await.map_err(failed)?;
        let mut version = Vec::new();
        while let Some(piece) = file.data.recv().await {
            version.extend(piece.map_err(failed)?);
            version.truncate(LONGEST_VERSION);
        }
        release_in(&String::from_utf8_lossy(&version)).ok_or_else(|| ProviderError::Backend {
            step: "ask a trial for its kernel",
            message: "its /proc/version names no release".to_owned(),
            source: None,
        })
    };
    let asked = asked.await;
    removal::container(inner, &name).await?;
    asked
}

/// The release in `Linux version RELEASE …` (proc_version(5)).
fn release_in(version: &str) -> Option<String> {
    let rest = version.trim_start().strip_prefix("Linux version ")?;
    rest.split_ascii_whitespace().next().map(str::to_owned)
}

fn spec() -> BoxSpec {
    BoxSpec {
        id: SandboxId::from_u32(0),
        image: REPOSITORY.to_owned(),
        isolation: Isolation::Container,
        memory_mb: MEMORY_MB,
        vcpus: Vcpus::ONE,
        pids_limit: PIDS,
        open_files: FILES,
        disk_mb: None,
        read_only_rootfs: false,
        network: NetworkMode::None,
        user: None,
        workdir: None,
        env: Default::default(),
    }
}

/// A name that no other trial has.
pub(crate) fn name(inner: &Inner) -> String {
    let mut bytes = [0; 8];
    // Without random numbers all trials have one name, and then one of two at once fails.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    inner.house.names.trial(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::release_in;

    #[test]
    fn a_kernel_says_its_release() {
        let linux = "Linux version 6.18.1-x (builder@host) (gcc 12) #1 SMP\n";
        assert_eq!(release_in(linux).as_deref(), Some("6.18.1-x"));
        assert_eq!(
            release_in("Linux version 4.4.0 #1 SMP").as_deref(),
            Some("4.4.0")
        );
        assert_eq!(release_in("Linux version "), None);
        assert_eq!(release_in("FreeBSD 14"), None);
    }
}
