//! The keys of the Docker provider.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use stacyvm_types::Cidr;

use super::TraefikConfig;

/// What a container is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A network of its own with a way out.
    #[default]
    Bridge,
    /// Nothing.
    None,
}

/// Docker containers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DockerConfig {
    /// Whether it is there; none means that it is where an engine answers at the start.
    pub enabled: Option<bool>,
    /// Where the engine listens: `unix:///path`, `tcp://host:port`, `https://host:port`. Where this
    /// is not set and `DOCKER_HOST` is, that counts.
    pub socket: String,
    /// A file in PEM with the authority of the engine's certificate; with it, and the two that
    /// follow, a port is spoken to over TLS.
    pub tls_ca: Option<PathBuf>,
    /// Our certificate.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// The image of a spawn that names none.
    pub default_image: String,
    /// `runc`, `runsc`, `kata-runtime` or another that dockerd knows.
    pub runtime: String,
    /// `bridge` or `none`.
    pub network_mode: NetworkMode,
    /// Where containers have their addresses, 16 to 28 bits of IPv4; none lets the engine choose.
    pub network_subnet: Option<Cidr>,
    /// Ports of the host that containers reach.
    pub allow_host_ports: Vec<u16>,
    /// Private ranges that they reach.
    pub allow_cidrs: Vec<Cidr>,
    /// Ranges that they do not reach, whatever else is said.
    pub deny_cidrs: Vec<Cidr>,
    /// Name servers that they ask; none leaves it to the engine.
    pub name_servers: Vec<IpAddr>,
    /// A network also where the host cannot be closed to containers.
    pub unfiltered_network: bool,
    /// Only `/workspace` and `/tmp` stay writable.
    pub read_only_rootfs: bool,
    /// Size of `/tmp` then, MiB.
    pub tmp_size_mb: u64,
    /// Size of `/dev/shm`, MiB.
    pub shm_size_mb: u64,
    /// `default`, `unconfined` or a file.
    pub seccomp_profile: String,
    /// Capabilities taken away.
    pub dropped_caps: Vec<String>,
    /// Capabilities given back.
    pub added_caps: Vec<String>,
    /// Processes and threads of a container.
    pub pids_limit: u32,
    /// Containers made ahead: how many of which image.
    pub warm: BTreeMap<String, u32>,
    /// How many of those there may be in all.
    pub warm_max: u32,
    /// Labels for a Traefik that watches the same engine.
    pub traefik: TraefikConfig,
    /// What separates users who share a container.
    pub pool_security: PoolSecurityConfig,
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            enabled: None,
            socket: "unix:///var/run/docker.sock".to_owned(),
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            default_image: "alpine:latest".to_owned(),
            runtime: "runc".to_owned(),
            network_mode: NetworkMode::Bridge,
            network_subnet: None,
            allow_host_ports: Vec::new(),
            allow_cidrs: Vec::new(),
            deny_cidrs: Vec::new(),
            name_servers: Vec::new(),
            unfiltered_network: false,
            read_only_rootfs: false,
            tmp_size_mb: 64,
            shm_size_mb: 64,
            seccomp_profile: "default".to_owned(),
            dropped_caps: vec!["ALL".to_owned()],
            added_caps: Vec::new(),
            pids_limit: 256,
            warm: BTreeMap::new(),
            warm_max: 16,
            traefik: TraefikConfig::default(),
            pool_security: PoolSecurityConfig::default(),
        }
    }
}

/// What separates users who share a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolSecurityConfig {
    /// A user id of their own.
    pub per_user_uid: bool,
    /// Process numbers of their own.
    pub pid_namespace: bool,
    /// Directories closed to each other.
    pub workspace_permissions: bool,
    /// Processes of others hidden.
    pub hidepid: bool,
}

impl Default for PoolSecurityConfig {
    fn default() -> Self {
        Self {
            per_user_uid: false,
            pid_namespace: false,
            workspace_permissions: true,
            hidepid: false,
        }
    }
}
