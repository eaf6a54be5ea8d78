//! Putting the parts together: directories, lock, store, providers, orchestrator.
//!
//! The only place that names concrete providers. What cannot be had stops the start with the
//! remedy; nothing is replaced by something weaker unless the configuration says so.

pub(crate) mod directories;
pub(crate) mod docker;
mod lock;
mod previews;
pub(crate) mod private;
pub(crate) mod providers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use stacyvm_config::{Config, LimitsConfig, Loaded, NativeNetwork, Origin};
use stacyvm_orchestrator::{Orchestrator, Settings};
use stacyvm_preview::PreviewSettings;
use stacyvm_provider::Provider;
use stacyvm_server::{ConnectionSettings, RateSettings, ServerSettings};
use stacyvm_store::Store;
use stacyvm_types::{GoDuration, Isolation};

use crate::failure::WithHint;
use directories::Directories;
use lock::DirectoryLock;
use providers::Trial;

/// The providers that this program contains.
pub(crate) const BUILT_PROVIDERS: [&str; 3] = ["native", "docker", "mock"];

/// The port that an address without one means.
const HTTP_PORT: u16 = 80;

/// A server's inside, ready to be served.
pub(crate) struct Service {
    pub(crate) orchestrator: Orchestrator,
    pub(crate) server_settings: ServerSettings,
    pub(crate) provider: String,
    pub(crate) isolation: Isolation,
    pub(crate) data_dir: PathBuf,
    _lock: DirectoryLock,
}

/// Everything that `serve` needs before it can answer. `previews` is where it will listen for
/// previews.
pub(crate) async fn start(loaded: &Loaded, previews: SocketAddr) -> Result<Service> {
    let directories = Directories::of(loaded);
    directories.prepare()?;
    let lock = DirectoryLock::take(&directories.data)?;
    let database = directories.database(&loaded.config.database.path);
    let store = Store::open(&database)
        .with_context(|| format!("cannot open the database {}", database.display()))
        .hint("set database.path to a file on a local disk that this user may write")?;
    private::sweep(loaded, &directories).await;
    let providers = providers::start(
        &loaded.config,
        &directories,
        loaded.file.as_deref(),
        Trial::Yes,
    )
    .await?;
    let (provider, isolation) = (providers.default.clone(), providers.isolation);
    let mut settings = settings(&loaded.config, &provider);
    if loaded.origin("server.preview_domain") == Origin::Default {
        // Clients put the domain behind the port and the id, so it carries the server's own port.
        if previews.port() != HTTP_PORT {
            settings.preview_domain = format!("{}:{}", settings.preview_domain, previews.port());
        }
    }
    let mut server_settings = server_settings(&loaded.config, &settings.preview_domain);
    let access = previews::access(&loaded.config, &settings.preview_domain, &directories.data)?;
    server_settings.preview.gate = access.clone();
    server_settings.access = Some(access);
    server_settings.tls = previews::tls(&loaded.config, &directories.data)?;
    let orchestrator = Orchestrator::start(settings, store, providers.all)
        .await
        .context("cannot start")?;
    Ok(Service {
        orchestrator,
        server_settings,
        provider,
        isolation,
        data_dir: directories.data,
        _lock: lock,
    })
}

/// The orchestrator's part of the configuration.
pub(crate) fn settings(config: &Config, default_provider: &str) -> Settings {
    let defaults = &config.defaults;
    Settings {
        default_provider: default_provider.to_owned(),
        default_image: defaults.image.clone(),
        image_aliases: config.images.aliases.clone(),
        default_ttl: defaults.ttl.to_std(),
        max_ttl: limit(defaults.max_ttl),
        memory_mb: defaults.memory_mb,
        vcpus: defaults.vcpus,
        pids_limit: defaults.pids_limit,
        open_files: defaults.open_files,
        disk_mb: (defaults.disk_mb > 0).then_some(defaults.disk_mb),
        max_memory_mb: (defaults.max_memory_mb > 0).then_some(defaults.max_memory_mb),
        max_vcpus: (!defaults.max_vcpus.is_none()).then_some(defaults.max_vcpus),
        max_disk_mb: (defaults.max_disk_mb > 0).then_some(defaults.max_disk_mb),
        default_exec_timeout: limit(defaults.default_exec_timeout),
        max_exec_timeout: limit(defaults.max_exec_timeout),
        max_output_bytes: usize::try_from(defaults.max_output_bytes).unwrap_or(usize::MAX),
        max_sandboxes: defaults.max_sandboxes,
        max_owner_sandboxes: defaults.max_sandboxes_per_owner,
        spawn_queue: config.limits.spawn_queue as usize,
        spawn_queue_timeout: config.limits.spawn_queue_timeout.to_std(),
        concurrent_creates: config.limits.concurrent_creates as usize,
        pool_mode: config.pool.enabled,
        preview_domain: config.server.preview_domain.clone(),
        event_history: usize::try_from(config.events.history).unwrap_or(usize::MAX),
        reconcile_interval: Duration::from_secs(60),
        health_interval: Duration::from_secs(30),
    }
}

/// The front door's part of the configuration.
fn server_settings(config: &Config, preview_domain: &str) -> ServerSettings {
    let key = &config.auth.api_key;
    ServerSettings {
        api_key: (!key.is_empty()).then(|| key.expose().into()),
        cors_allowed_origins: config.server.cors_allowed_origins.clone(),
        allowed_hosts: config.server.allowed_hosts.clone(),
        trusted_proxies: config.server.trusted_proxies.clone(),
        preview_domain: preview_domain.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        drain_timeout: config.server.shutdown_timeout.to_std(),
        ticket_life: config.auth.ticket_ttl.to_std(),
        rates: rates(&config.limits),
        connections: ConnectionSettings {
            per_address: config.limits.connections_per_address as usize,
            ..ConnectionSettings::default()
        },
        preview: preview(config, preview_domain),
        ..ServerSettings::default()
    }
}

/// The previews' part of the configuration.
fn preview(config: &Config, preview_domain: &str) -> PreviewSettings {
    let preview = &config.preview;
    PreviewSettings {
        domain: preview_domain.to_owned(),
        wait: preview.wait.to_std(),
        idle_timeout: preview.idle_timeout.to_std(),
        max_connections: preview.max_connections_per_sandbox as usize,
        misses_per_minute: config.limits.preview_misses_per_minute,
        ..PreviewSettings::default()
    }
}

/// How often the front door may be used.
fn rates(limits: &LimitsConfig) -> RateSettings {
    RateSettings {
        requests_per_second: limits.requests_per_second,
        burst: limits.burst,
        owner_requests_per_second: limits.owner_requests_per_second,
        owner_burst: limits.owner_burst,
        spawns_per_minute: limits.spawns_per_minute,
        owner_spawns_per_minute: limits.owner_spawns_per_minute,
        auth_failures_per_minute: limits.auth_failures_per_minute,
    }
}

/// 0 means no limit.
fn limit(duration: GoDuration) -> Option<Duration> {
    duration.is_positive().then(|| duration.to_std())
}

/// A native provider of its own in `directory`, with nothing around it: the floor of the bench.
pub(crate) async fn bare_native(directory: &Path, network: bool) -> Result<Arc<dyn Provider>> {
    let mut config = Config::default();
    config.providers.native.network = if network {
        NativeNetwork::Bridge
    } else {
        NativeNetwork::None
    };
    let directories = Directories::below(directory);
    directories.prepare()?;
    providers::native(&config, &directories, &[]).await
}

/// Lets this process open as many files as it may: each sandbox holds a few.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "Limit of open files stays as it is");
    }
}
