//! The settings of the Docker provider.

use std::path::PathBuf;

use stacyvm_image::Credentials;

use crate::engine::EngineAddress;
use crate::network::NetworkSettings;
use crate::parameters::Seccomp;
use crate::traefik::Traefik;
use crate::warm::WarmSettings;

/// The settings of one Docker provider.
#[derive(Clone, Debug)]
pub struct DockerSettings {
    /// The engine's address.
    pub address: EngineAddress,
    /// A tag that tells this server's containers from those of other servers on the same engine: at
    /// most 40 lower-case letters, digits and `-`.
    pub tag: String,
    /// The agent program: a static executable for the engine's machine.
    pub agent: PathBuf,
    /// The image of a spawn that names none.
    pub default_image: String,
    /// The runtime of a spawn that asks for no stronger isolation, by its name in the engine.
    pub runtime: String,
    /// Whether agents are reached over the engine's attachment alone, also where their own sockets
    /// could be used.
    pub attach_only: bool,
    /// Whether sandboxes can write to `/workspace` and `/tmp` only.
    pub read_only_rootfs: bool,
    /// The filter of system calls.
    pub seccomp: Seccomp,
    /// Capabilities that root inside does not have, with or without `CAP_`; `ALL` is all.
    pub dropped_caps: Vec<String>,
    /// Capabilities that it has although they are dropped, or in addition to Docker's default.
    pub added_caps: Vec<String>,
    /// The most processes and threads of one container, whatever a spawn asks for.
    pub pids_limit: u32,
    /// The network of sandboxes.
    pub network: NetworkSettings,
    /// Which containers are made ahead.
    pub warm: WarmSettings,
    /// Size of `/tmp` where the root is read-only, MiB.
    pub tmp_size_mb: u64,
    /// Size of `/dev/shm`, MiB.
    pub shm_size_mb: u64,
    /// Labels for a Traefik proxy that watches the same engine; none means no labels.
    pub traefik: Option<Traefik>,
    /// Whether an image that a spawn names and the engine lacks is pulled.
    pub pull_missing: bool,
    /// The platform to pull, `linux/amd64`; none leaves it to the engine.
    pub platform: Option<String>,
    /// The logins for registries.
    pub credentials: Credentials,
}

impl DockerSettings {
    /// The default settings for an engine, a tag and an agent.
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
