//! What the Docker provider is started with.

use std::path::PathBuf;

use stacyvm_image::Credentials;

use crate::engine::EngineAddress;
use crate::network::NetworkSettings;
use crate::parameters::Seccomp;
use crate::traefik::Traefik;
use crate::warm::WarmSettings;

/// Settings of one Docker provider.
#[derive(Clone, Debug)]
pub struct DockerSettings {
    /// Where the engine listens.
    pub address: EngineAddress,
    /// Tells this server's containers from those of every other server on the same engine:
    /// lower-case letters, digits and `-`, at most 40.
    pub tag: String,
    /// The agent program, static, for the engine's machine.
    pub agent: PathBuf,
    /// The image of a spawn that names none.
    pub default_image: String,
    /// The runtime of a spawn that asks for no more isolation, as the engine knows it.
    pub runtime: String,
    /// Whether agents are reached through the engine also where there is a shorter way.
    pub attach_only: bool,
    /// Whether every sandbox has only `/workspace` and `/tmp` to write to.
    pub read_only_rootfs: bool,
    /// The filter of system calls.
    pub seccomp: Seccomp,
    /// Capabilities that root inside does not have, with or without `CAP_`; `ALL` is all.
    pub dropped_caps: Vec<String>,
    /// Capabilities that it has nevertheless.
    pub added_caps: Vec<String>,
    /// Processes and threads of one container at most, whatever a spawn asks for.
    pub pids_limit: u32,
    /// How sandboxes are connected.
    pub network: NetworkSettings,
    /// Which containers are made ahead.
    pub warm: WarmSettings,
    /// Size of `/tmp` where the root is read-only, MiB.
    pub tmp_size_mb: u64,
    /// Size of `/dev/shm`, MiB.
    pub shm_size_mb: u64,
    /// Labels for a Traefik that watches the same engine; none means no labels.
    pub traefik: Option<Traefik>,
    /// Whether an image that a spawn names and that is not here is pulled.
    pub pull_missing: bool,
    /// The platform that is pulled, `linux/amd64`; none leaves it to the engine.
    pub platform: Option<String>,
    /// How to log in to registries.
    pub credentials: Credentials,
}

impl DockerSettings {
    /// The defaults, with an engine, a tag and an agent.
    pub fn new(address: EngineAddress, tag: impl Into<String>, agent: impl Into<PathBuf>) -> Self {
        Self {
            address,
            tag: tag.into(),
            agent: agent.into(),
            default_image: "alpine:latest".to_owned(),
            runtime: "runc".to_owned(),
            attach_only: false,
            read_only_rootfs: false,
            seccomp: Seccomp::Default,
            dropped_caps: vec!["ALL".to_owned()],
            added_caps: Vec::new(),
            pids_limit: 256,
            network: NetworkSettings::default(),
            warm: WarmSettings::default(),
            tmp_size_mb: 64,
            shm_size_mb: 64,
            traefik: None,
            pull_missing: false,
            platform: None,
            credentials: Credentials::default(),
        }
    }
}
