//! Starting the providers that the configuration asks for, and choosing the default.
//!
//! A server's provider counts only when its health check, which really makes a sandbox, succeeds.
//! A `run` makes just one sandbox and finds out by that.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use stacyvm_config::{Config, NativeNetwork, ProviderChoice, PullPolicy};
use stacyvm_image::PullOptions;
use stacyvm_mock::MockProvider;
use stacyvm_native::{IoRates, NativeConfig, NativeProvider, NetworkChoice, NetworkSettings};
use stacyvm_orchestrator::ConfiguredProvider;
use stacyvm_provider::{Health, Provider};
use stacyvm_types::Isolation;

use super::directories::Directories;
use super::docker;
use crate::embedded::Program;
use crate::failure::advise;
use crate::progress::Progress;

/// What is there to make sandboxes.
pub(crate) struct Providers {
    pub(crate) all: Vec<ConfiguredProvider>,
    pub(crate) default: String,
    pub(crate) isolation: Isolation,
}

/// Whether a provider is tried out before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    /// By making a sandbox and removing it.
    Yes,
    /// The caller is about to make one anyway.
    No,
}

/// Starts every provider that the configuration enables. Sandboxes must not see `config_file`.
pub(crate) async fn start(
    config: &Config,
    directories: &Directories,
    config_file: Option<&Path>,
    trial: Trial,
) -> Result<Providers> {
    let choice = config.providers.default;
    let mut all: Vec<ConfiguredProvider> = Vec::new();
    let mut native_failure = None;
    if config.providers.native.enabled {
        let hidden: Vec<PathBuf> = config_file
            .into_iter()
            .filter_map(|path| path.canonicalize().ok())
            .collect();
        match working_native(config, directories, &hidden, trial).await {
            Ok(provider) => all.push(provider),
            Err(error) => native_failure = Some(error),
        }
    }
    let alone = choice == ProviderChoice::Auto && all.is_empty();
    all.extend(docker::start(config, directories, trial, alone).await?);
    if config.providers.mock.enabled || choice == ProviderChoice::Mock {
        all.push(mock(directories).await?.into());
    }
    let wanted = match (choice, native_failure) {
        (ProviderChoice::Native | ProviderChoice::Auto, Some(error)) if all.is_empty() => {
            return Err(explained(error));
        }
        (ProviderChoice::Native, Some(error)) => return Err(explained(error)),
        (ProviderChoice::Auto, None) => "native",
        (choice, failure) => {
            if let Some(error) = failure {
                let error = crate::failure::in_words(&error);
                tracing::warn!(%error, "Provider native cannot work and is left out");
            }
            match choice {
                ProviderChoice::Auto => strongest(&all),
                choice => choice.as_str(),
            }
        }
    };
    let default = all
        .iter()
        .map(|one| &one.provider)
        .find(|provider| provider.name() == wanted)
        .or(all.first().map(|one| &one.provider))
        .context("no provider is enabled")?;
    let (name, isolation) = (default.name().to_owned(), default.isolation());
    for missing in default.degradations() {
        tracing::warn!(provider = %name, missing, "Provider lacks something on this machine");
    }
    if isolation == Isolation::None {
        tracing::warn!(
            provider = %name,
            "Provider isolates nothing: commands run as this user, on this machine"
        );
    }
    Ok(Providers {
        default: name,
        isolation,
        all,
    })
}

/// What `auto` takes where native cannot work.
fn strongest(all: &[ConfiguredProvider]) -> &'static str {
    let there = |name: &str| all.iter().any(|one| one.provider.name() == name);
    if there("docker") { "docker" } else { "mock" }
}

/// Says what failed; advice that the failure brings along is better than ours.
fn explained(error: anyhow::Error) -> anyhow::Error {
    let advised = crate::failure::hint_of(&error).is_some();
    let error = error.context("the provider native cannot work here");
    if advised {
        return error;
    }
    advise(error, "\"stacyvm doctor\" shows what this machine lacks")
}

/// The native provider, tried out.
async fn working_native(
    config: &Config,
    directories: &Directories,
    hidden: &[PathBuf],
    trial: Trial,
) -> Result<ConfiguredProvider> {
    let provider = native(config, directories, hidden).await?;
    let health = match trial {
        Trial::Yes => provider.health().await,
        Trial::No => Health {
            healthy: true,
            error: None,
            latency: Duration::ZERO,
        },
    };
    if health.healthy {
        return Ok(ConfiguredProvider {
            provider,
            health: Some(health),
        });
    }
    provider.close().await;
    Err(anyhow::Error::msg(
        health
            .error
            .unwrap_or_else(|| "it is not healthy".to_owned()),
    ))
}

/// What the native provider is told.
pub(crate) fn native_settings(
    config: &Config,
    directories: &Directories,
    hidden: &[PathBuf],
) -> Result<NativeConfig> {
    let wanted = &config.providers.native;
    let launcher = Program::Launcher.locate(&directories.shared)?;
    let mut settings = NativeConfig::new(&directories.native, launcher);
    settings.launchers = usize::try_from(wanted.launchers).unwrap_or(1);
    settings.rootfs_dirs = wanted.rootfs_dirs.clone();
    settings.instance = directories.instance();
    settings.hidden = hidden.to_vec();
    settings.io = IoRates {
        read_bps: wanted.io_read_bps,
        write_bps: wanted.io_write_bps,
        read_iops: wanted.io_read_iops,
        write_iops: wanted.io_write_iops,
    };
    settings.host_view_dir = Some(directories.shared_native.join("native/host-view"));
    settings.network = NetworkSettings {
        choice: match wanted.network {
            NativeNetwork::Auto => NetworkChoice::Auto,
            NativeNetwork::Bridge => NetworkChoice::Bridge,
            NativeNetwork::None => NetworkChoice::None,
        },
        subnet: wanted.network_subnet,
        allow_host_ports: wanted.allow_host_ports.clone(),
        allow_cidrs: wanted.allow_cidrs.clone(),
        deny_cidrs: wanted.deny_cidrs.clone(),
        name_servers: wanted.name_servers.clone(),
        ready: if directories.is_private() {
            1
        } else {
            NetworkSettings::default().ready
        },
        // This program, also when its file has been replaced since.
        egress_program: Some((PathBuf::from("/proc/self/exe"), vec!["egress".to_owned()])),
    };
    settings.pull_missing = config.images.pull == PullPolicy::Missing;
    settings.pull = pull_options(config)?;
    settings.runs_dir = Some(directories.runs());
    Ok(settings)
}

/// How images are pulled.
pub(crate) fn pull_options(config: &Config) -> Result<PullOptions> {
    let images = &config.images;
    let mut options = PullOptions {
        parallel: usize::try_from(images.max_parallel).unwrap_or(1),
        ..PullOptions::default()
    };
    if let Some(platform) = &images.platform {
        options.platform = platform.parse().context("images.platform")?;
    }
    let mirrors = images.mirrors.iter();
    options.registries.mirrors = mirrors
        .map(|(registry, mirrors)| (registry.clone(), mirrors.all().to_vec()))
        .collect();
    options.registries.insecure = images.insecure_registries.iter().cloned().collect();
    options.registries.private = images.private_registries.iter().cloned().collect();
    let token_hosts = images.token_hosts.iter();
    options.registries.token_hosts = token_hosts
        .map(|(registry, hosts)| (registry.clone(), hosts.all().to_vec()))
        .collect();
    options.registries.certificates = images.certificates.clone();
    Ok(options)
}

/// The native provider, started but not tried out.
pub(crate) async fn native(
    config: &Config,
    directories: &Directories,
    hidden: &[PathBuf],
) -> Result<Arc<dyn Provider>> {
    let settings = native_settings(config, directories, hidden)?;
    let progress = Progress::steps("Preparing the view of the host");
    let report = Box::new(move |done, of| progress.reach(done, of));
    let provider = NativeProvider::start_with_progress(settings, report)
        .await
        .context("cannot start the provider native")?;
    Ok(Arc::new(provider))
}

/// The mock provider.
pub(crate) async fn mock(directories: &Directories) -> Result<Arc<dyn Provider>> {
    let agent = Program::Agent.locate(&directories.shared)?;
    let provider = MockProvider::new(directories.data.join("mock"), agent)
        .context("cannot start the provider mock")?;
    Ok(Arc::new(provider))
}
