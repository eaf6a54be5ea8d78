//! The keys of the providers.
//!
//! A provider of a later version has its keys here already, so that a file written for it is
//! understood; its `enabled` is off, and turning it on is refused until it is there.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use stacyvm_types::Cidr;

use super::DockerConfig;
use crate::Secret;

/// The provider of a spawn that names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderChoice {
    /// The strongest that this machine can really do.
    #[default]
    Auto,
    /// Kernel namespaces.
    Native,
    /// Temporary directories, no isolation.
    Mock,
    /// Docker containers.
    Docker,
    /// Firecracker microVMs.
    Firecracker,
    /// E2B's hosted service.
    E2b,
    /// A service of one's own.
    Custom,
    /// PRoot.
    Proot,
}

impl ProviderChoice {
    /// The word used in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Mock => "mock",
            Self::Docker => "docker",
            Self::Firecracker => "firecracker",
            Self::E2b => "e2b",
            Self::Custom => "custom",
            Self::Proot => "proot",
        }
    }
}

/// What makes sandboxes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProvidersConfig {
    /// The provider of a spawn that names none.
    pub default: ProviderChoice,
    /// Kernel namespaces.
    pub native: NativeConfig,
    /// Temporary directories, no isolation.
    pub mock: MockConfig,
    /// Docker containers.
    pub docker: DockerConfig,
    /// Firecracker microVMs.
    pub firecracker: FirecrackerConfig,
    /// E2B's hosted service.
    pub e2b: E2bConfig,
    /// A service of one's own.
    pub custom: CustomConfig,
    /// PRoot.
    pub proot: ProotConfig,
}

/// Whether native sandboxes have a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NativeNetwork {
    /// Where this machine can give them one.
    #[default]
    Auto,
    /// Yes; a machine that cannot stops the start.
    Bridge,
    /// No.
    None,
}

/// Kernel namespaces.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NativeConfig {
    /// Whether it is there.
    pub enabled: bool,
    /// Its boxes, images and view of the host, in `native/` below it; none means the server's
    /// data directory.
    pub data_dir: Option<PathBuf>,
    /// How many launcher processes share the work; 0 chooses by the number of cores.
    pub launchers: u32,
    /// Directories below which a spawn may name a root file system; none by default, because a
    /// client could otherwise name any directory of the host.
    pub rootfs_dirs: Vec<PathBuf>,
    /// `auto`, `bridge` or `none`.
    pub network: NativeNetwork,
    /// Where sandboxes have their IPv4 addresses, 16 to 24 bits; none chooses a free range.
    pub network_subnet: Option<Cidr>,
    /// Ports of the host that sandboxes reach.
    pub allow_host_ports: Vec<u16>,
    /// Private ranges that sandboxes reach.
    pub allow_cidrs: Vec<Cidr>,
    /// Ranges that they do not reach, whatever else is said.
    pub deny_cidrs: Vec<Cidr>,
    /// Name servers that sandboxes ask; none means those of the host.
    pub name_servers: Vec<IpAddr>,
    /// How fast each sandbox may read from the device of the data directory, bytes a second; 0
    /// means no limit, here and in the three that follow.
    pub io_read_bps: u64,
    /// How fast it may write, bytes a second.
    pub io_write_bps: u64,
    /// How often it may read, times a second.
    pub io_read_iops: u64,
    /// How often it may write, times a second.
    pub io_write_iops: u64,
}

impl Default for NativeConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            data_dir: None,
            launchers: 0,
            rootfs_dirs: Vec::new(),
            network: NativeNetwork::Auto,
            network_subnet: None,
            allow_host_ports: Vec::new(),
            allow_cidrs: Vec::new(),
            deny_cidrs: Vec::new(),
            name_servers: Vec::new(),
            io_read_bps: 0,
            io_write_bps: 0,
            io_read_iops: 0,
            io_write_iops: 0,
        }
    }
}

/// Temporary directories: every client runs its commands as the server's own user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MockConfig {
    /// Whether it is there; naming it as the default is enough.
    pub enabled: bool,
}

/// Firecracker microVMs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FirecrackerConfig {
    /// Whether it is there.
    pub enabled: bool,
    /// The program.
    pub firecracker_path: PathBuf,
    /// The guest's kernel.
    pub kernel_path: PathBuf,
    /// The agent that goes into the guest.
    pub agent_path: PathBuf,
    /// Its files.
    pub data_dir: PathBuf,
}

impl Default for FirecrackerConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            firecracker_path: PathBuf::from("/usr/local/bin/firecracker"),
            kernel_path: PathBuf::from("/var/lib/stacyvm/vmlinux.bin"),
            agent_path: PathBuf::from("./bin/stacyvm-agent"),
            data_dir: PathBuf::from("/var/lib/stacyvm"),
        }
    }
}

/// E2B's hosted service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct E2bConfig {
    /// Whether it is there.
    pub enabled: bool,
    /// Its key.
    pub api_key: Secret,
    /// Where it answers.
    pub base_url: String,
}

impl Default for E2bConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            api_key: Secret::default(),
            base_url: "https://api.e2b.dev".to_owned(),
        }
    }
}

/// A service of one's own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CustomConfig {
    /// Whether it is there.
    pub enabled: bool,
    /// Where it answers.
    pub base_url: String,
    /// Its key.
    pub api_key: Secret,
}

/// PRoot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProotConfig {
    /// Whether it is there.
    pub enabled: bool,
    /// The root file system it starts from.
    pub rootfs_path: PathBuf,
}

impl Default for ProotConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            rootfs_path: PathBuf::from("/var/lib/stacyvm/rootfs"),
        }
    }
}
