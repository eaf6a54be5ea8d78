//! The keys, their types and their defaults.
//!
//! A key's default is what `Default` says here; a key without a default is an `Option`. Limits
//! use 0 (or `0s`) for "none".

mod certificates;
mod docker;
mod images;
mod limits;
mod preview;
mod providers;
mod traefik;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stacyvm_types::{Cidr, GoDuration, Vcpus};

use crate::Secret;
pub use certificates::{AcmeConfig, PreviewTlsConfig};
pub use docker::{DockerConfig, NetworkMode, PoolSecurityConfig};
pub use images::{ImagesConfig, Mirrors, PullPolicy};
pub use limits::LimitsConfig;
pub use preview::PreviewConfig;
pub use providers::{
    CustomConfig, E2bConfig, FirecrackerConfig, MockConfig, NativeConfig, NativeNetwork,
    ProotConfig, ProviderChoice, ProvidersConfig,
};
pub use traefik::TraefikConfig;

/// Everything that can be set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Config {
    /// The front door.
    pub server: ServerConfig,
    /// What makes sandboxes.
    pub providers: ProvidersConfig,
    /// Images.
    pub images: ImagesConfig,
    /// Defaults of a spawn that leaves a setting out, and the limits of what a spawn may ask for.
    pub defaults: DefaultsConfig,
    /// The history of events.
    pub events: EventsConfig,
    /// Who may use the API.
    pub auth: AuthConfig,
    /// How much may be asked for at once.
    pub limits: LimitsConfig,
    /// Ports of sandboxes in a browser.
    pub preview: PreviewConfig,
    /// Where the records are.
    pub database: DatabaseConfig,
    /// What is logged.
    pub logging: LoggingConfig,
    /// Where spans go.
    pub telemetry: TelemetryConfig,
    /// Pool mode.
    pub pool: PoolConfig,
}

/// The front door.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerConfig {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Clients build preview addresses `{port}-{id}.{preview_domain}` from it.
    pub preview_domain: String,
    /// Addresses beside the API's own that serve previews and nothing else: `0.0.0.0:80`.
    pub preview_listen: Vec<String>,
    /// Origins of web pages that may call the API, beside the server's own; `*` means all.
    pub cors_allowed_origins: Vec<String>,
    /// Host names that requests may carry while no key is set, beside loopback names and addresses.
    pub allowed_hosts: Vec<String>,
    /// Proxies, by address or range, whose `X-Forwarded-For` says who the client is.
    pub trusted_proxies: Vec<Cidr>,
    /// Database, images and sandboxes; none means `/var/lib/stacyvm` for root, else
    /// `~/.local/share/stacyvm`.
    pub data_dir: Option<PathBuf>,
    /// How long commands in flight may go on when the server stops.
    pub shutdown_timeout: GoDuration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: "0.0.0.0".to_owned(),
            port: 7423,
            preview_domain: "localhost".to_owned(),
            preview_listen: Vec::new(),
            cors_allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            data_dir: None,
            shutdown_timeout: GoDuration::from_secs(10),
        }
    }
}

/// Defaults of a spawn that leaves a setting out, and the limits of what a spawn may ask for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DefaultsConfig {
    /// Life of a sandbox.
    pub ttl: GoDuration,
    /// Its image; none means the provider's own default.
    pub image: Option<String>,
    /// Its memory, MiB.
    pub memory_mb: u64,
    /// Its cores: 2, or 0.5.
    pub vcpus: Vcpus,
    /// Its processes and threads.
    pub pids_limit: u32,
    /// Open files of each of its processes.
    pub open_files: u64,
    /// What it may write to its disk, MiB; 0 means no limit of its own.
    pub disk_mb: u64,
    /// Time for a command; `0s` means no limit.
    pub default_exec_timeout: GoDuration,
    /// The longest time a command may ask for; `0s` means no limit.
    pub max_exec_timeout: GoDuration,
    /// The longest life a spawn may ask for; `0s` means no limit.
    pub max_ttl: GoDuration,
    /// Captured output of a command, bytes a stream; the rest is cut off and marked.
    pub max_output_bytes: u64,
    /// The largest memory a spawn may ask for, MiB; 0 means no limit.
    pub max_memory_mb: u64,
    /// The most cores a spawn may ask for; 0 means no limit.
    pub max_vcpus: Vcpus,
    /// The most disk a spawn may ask for, MiB; 0 means no limit.
    pub max_disk_mb: u64,
    /// Sandboxes alive at once; 0 means no limit.
    pub max_sandboxes: u64,
    /// Sandboxes of one owner alive at once; 0 means no limit.
    pub max_sandboxes_per_owner: u64,
}

impl Default for DefaultsConfig {
    fn default() -> Self {
        Self {
            ttl: GoDuration::from_secs(30 * 60),
            image: None,
            memory_mb: 1024,
            vcpus: Vcpus::ONE,
            pids_limit: 256,
            open_files: 16_384,
            disk_mb: 0,
            default_exec_timeout: GoDuration::ZERO,
            max_exec_timeout: GoDuration::ZERO,
            max_ttl: GoDuration::ZERO,
            max_output_bytes: 16 * 1024 * 1024,
            max_memory_mb: 0,
            max_vcpus: Vcpus::NONE,
            max_disk_mb: 0,
            max_sandboxes: 0,
            max_sandboxes_per_owner: 0,
        }
    }
}

/// The history of events.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventsConfig {
    /// How many of the newest events are kept for clients that connect again.
    pub history: u32,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self { history: 10_000 }
    }
}

/// Who may use the API.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthConfig {
    /// Refuse to start without a key. A key that is set counts in any case.
    pub enabled: bool,
    /// What clients send as `X-API-Key`, or as `Authorization: Bearer`.
    pub api_key: Secret,
    /// How long a ticket is good, which stands in for the key where browsers cannot send it.
    pub ticket_ttl: GoDuration,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            api_key: Secret::default(),
            ticket_ttl: GoDuration::from_secs(60),
        }
    }
}

/// Where the records are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatabaseConfig {
    /// The SQLite file; a relative path is inside the data directory.
    pub path: PathBuf,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("stacyvm.db"),
        }
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Every step.
    Debug,
    /// Changes of state.
    #[default]
    Info,
    /// What was not as it should be.
    Warn,
    /// What a person must look at.
    Error,
}

impl LogLevel {
    /// The word used in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// What a log line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    #[default]
    Json,
    /// For people.
    Pretty,
}

/// What is logged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LoggingConfig {
    /// `debug`, `info`, `warn` or `error`.
    pub level: LogLevel,
    /// `json` or `pretty`.
    pub format: LogFormat,
}

/// Where spans go beside the log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TelemetryConfig {
    /// Base URL of an OTLP collector, `http://127.0.0.1:4318`; empty sends nothing. Only a program
    /// with the cargo feature `otlp` can.
    pub otlp_endpoint: String,
}

/// What happens when every pool VM is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// The spawn fails.
    #[default]
    Reject,
    /// The spawn waits.
    Queue,
}

/// Pool mode: many users share one VM or container. Not in this version; `enabled` is refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolConfig {
    /// Whether it is on.
    pub enabled: bool,
    /// How many VMs.
    pub max_vms: u32,
    /// How many users share one.
    pub max_users_per_vm: u32,
    /// What the VMs are made from.
    pub image: String,
    /// Memory of a VM, MiB.
    pub memory_mb: u64,
    /// Cores of a VM.
    pub vcpus: Vcpus,
    /// `reject` or `queue`.
    pub overflow: Overflow,
    /// How long a queued spawn waits.
    pub queue_timeout: GoDuration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            max_vms: 10,
            max_users_per_vm: 5,
            image: "alpine:latest".to_owned(),
            memory_mb: 2048,
            vcpus: Vcpus::whole(2),
            overflow: Overflow::Reject,
            queue_timeout: GoDuration::from_secs(30),
        }
    }
}
