//! The Docker provider: where its engine is, whose its containers are, and whether it is there.
//!
//! Its one rule: Docker is never required. An engine that was not asked for is looked for once, at a
//! server's start, and never by a `run`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use stacyvm_config::{
    Config, DockerConfig, NetworkMode, ProviderChoice, PullPolicy, TraefikConfig,
};
use stacyvm_docker::{
    DockerProvider, DockerSettings, EngineAddress, NetworkChoice, NetworkSettings, Seccomp,
    TlsFiles, Traefik, WarmSettings,
};
use stacyvm_orchestrator::ConfiguredProvider;
use stacyvm_provider::{Health, Provider};

use super::directories::Directories;
use super::providers::Trial;
use crate::embedded::Program;
use crate::failure::WithHint;

/// How long an engine that was not asked for may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The Docker client's own variable with the engine's address.
const VARIABLE: &str = "DOCKER_HOST";
/// Bytes of the tag that tells servers on one engine apart.
const TAG_BYTES: usize = 6;

/// The provider, if it is to be there. Where it is the default, or `alone` because nothing else
/// works, it has shown that it works.
///
/// # Errors
/// When it was asked for and its settings cannot be, or when it is the default and does not work.
pub(super) async fn start(
    config: &Config,
    directories: &Directories,
    trial: Trial,
    alone: bool,
) -> Result<Option<ConfiguredProvider>> {
    let is_default = config.providers.default == ProviderChoice::Docker;
    let enabled = config.providers.docker.enabled;
    let wanted = is_default || (enabled == Some(true) && trial == Trial::Yes);
    if !wanted && (trial == Trial::No || enabled == Some(false)) {
        return Ok(None);
    }
    let settings = match settings(config, directories) {
        Ok(settings) => settings,
        // Mistakes in the Docker client's own variables do not matter on a machine without Docker.
        Err(error) if !wanted && names_variable(&error) => {
            let error = crate::failure::in_words(&error);
            tracing::warn!(%error, "Provider docker cannot be and is left out");
            return Ok(None);
        }
        Err(error) => return Err(error.context("cannot start the provider docker")),
    };
    // A key that makes no sense stops the start, whether the provider was asked for or not.
    let provider = DockerProvider::new(settings).context("cannot start the provider docker")?;
    if is_default {
        let health = provider.health().await;
        if let Some(reason) = &health.error {
            return Err(anyhow::Error::msg(reason.clone()))
                .context("the provider docker cannot work here")
                .hint("start the engine, set providers.docker.socket, or set providers.default to \"native\"");
        }
        return Ok(Some(checked(provider, Some(health))));
    }
    if !wanted && !provider.answers(PROBE_TIMEOUT).await {
        tracing::info!("No Docker engine answers, and provider docker is left out");
        return Ok(None);
    }
    if alone {
        let health = provider.health().await;
        if let (Some(error), false) = (&health.error, wanted) {
            tracing::warn!(error, "Provider docker cannot work and is left out");
            return Ok(None);
        }
        return Ok(Some(checked(provider, Some(health))));
    }
    Ok(Some(checked(provider, None)))
}

fn checked(provider: DockerProvider, health: Option<Health>) -> ConfiguredProvider {
    ConfiguredProvider {
        provider: Arc::new(provider),
        health,
    }
}

/// Whether it is the environment that is wrong, not the configuration.
fn names_variable(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.to_string() == VARIABLE)
}

/// The provider whose containers an earlier run left, if that run had any to do with Docker.
///
/// # Errors
/// When its settings cannot be.
pub(super) fn left(
    config: &Config,
    directories: &Directories,
) -> Result<Option<Arc<dyn Provider>>> {
    if !tag_file(directories).exists() {
        return Ok(None);
    }
    let mut settings = settings(config, directories)?;
    // Nothing is made ahead for a server that is over; what was is removed when it is closed.
    settings.warm.images.clear();
    Ok(Some(Arc::new(DockerProvider::new(settings)?)))
}

/// What the provider is told.
///
/// # Errors
/// When a file is missing or a key makes no sense.
pub(crate) fn settings(config: &Config, directories: &Directories) -> Result<DockerSettings> {
    let wanted = &config.providers.docker;
    let address = address(wanted, |name| {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    })?;
    let agent = Program::Agent.locate(&directories.shared)?;
    let mut settings = DockerSettings::new(address, tag(directories)?, agent);
    settings.default_image = wanted.default_image.clone();
    settings.runtime = wanted.runtime.clone();
    settings.read_only_rootfs = wanted.read_only_rootfs;
    settings.seccomp = Seccomp::load(&wanted.seccomp_profile)?;
    settings.dropped_caps = wanted.dropped_caps.clone();
    settings.added_caps = wanted.added_caps.clone();
    settings.pids_limit = wanted.pids_limit;
    settings.tmp_size_mb = wanted.tmp_size_mb;
    settings.shm_size_mb = wanted.shm_size_mb;
    settings.network = network(wanted);
    let defaults = &config.defaults;
    settings.warm = WarmSettings {
        images: wanted.warm.clone(),
        memory_mb: defaults.memory_mb,
        vcpus: defaults.vcpus,
        pids_limit: defaults.pids_limit,
        open_files: defaults.open_files,
        disk_mb: (defaults.disk_mb > 0).then_some(defaults.disk_mb),
    };
    settings.traefik = traefik(&wanted.traefik, &config.server.preview_domain);
    settings.pull_missing = config.images.pull == PullPolicy::Missing;
    settings.platform = config.images.platform.clone();
    Ok(settings)
}

fn network(wanted: &DockerConfig) -> NetworkSettings {
    NetworkSettings {
        choice: match wanted.network_mode {
            NetworkMode::Bridge => NetworkChoice::Bridge,
            NetworkMode::None => NetworkChoice::None,
        },
        subnet: wanted.network_subnet,
        allow_host_ports: wanted.allow_host_ports.clone(),
        allow_cidrs: wanted.allow_cidrs.clone(),
        deny_cidrs: wanted.deny_cidrs.clone(),
        name_servers: wanted.name_servers.clone(),
        // A Traefik in the host's network is the one who connects.
        inbound_from_host: wanted.traefik.enabled,
        unfiltered: wanted.unfiltered_network,
    }
}

fn traefik(wanted: &TraefikConfig, domain: &str) -> Option<Traefik> {
    wanted.enabled.then(|| Traefik {
        ports: wanted.ports.clone(),
        domain: domain.to_owned(),
        entry_points: wanted.entrypoints.clone(),
        cert_resolver: wanted.cert_resolver.clone(),
        network: wanted.network.clone(),
    })
}

/// Where the engine is: as configured, else as the Docker client's own variables say.
fn address(
    wanted: &DockerConfig,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<EngineAddress> {
    let configured = match (&wanted.tls_ca, &wanted.tls_cert, &wanted.tls_key) {
        (Some(ca), Some(cert), Some(key)) => Some(TlsFiles {
            ca: ca.clone(),
            cert: cert.clone(),
            key: key.clone(),
        }),
        _ => None,
    };
    if wanted.socket != DockerConfig::default().socket {
        return EngineAddress::parse(&wanted.socket, configured).context("providers.docker.socket");
    }
    let Some(host) = variable(VARIABLE) else {
        return Ok(EngineAddress::parse(&wanted.socket, configured)?);
    };
    let tls = configured.or_else(|| {
        // As the client does: verified TLS where it is asked for, with the files of its directory.
        variable("DOCKER_TLS_VERIFY")?;
        let directory = variable("DOCKER_CERT_PATH")
            .map(PathBuf::from)
            .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".docker")))?;
        Some(TlsFiles {
            ca: directory.join("ca.pem"),
            cert: directory.join("cert.pem"),
            key: directory.join("key.pem"),
        })
    });
    EngineAddress::parse(&host, tls).context(VARIABLE)
}

/// What tells this server's containers from those of others on the same engine. Chosen once and
/// kept: a path would not do, because servers of several machines may share one engine.
fn tag(directories: &Directories) -> Result<String> {
    let file = tag_file(directories);
    if let Some(known) = known_tag(&file) {
        return Ok(known);
    }
    let mut bytes = [0; TAG_BYTES];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("cannot choose a name for the provider docker")?;
    let tag: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write(&file, &tag)
        .with_context(|| format!("cannot write {}", file.display()))
        .hint("make the data directory writable, or set server.data_dir")?;
    Ok(tag)
}

fn known_tag(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let tag = text.trim();
    let whole = tag.len() == 2 * TAG_BYTES && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then(|| tag.to_owned())
}

/// Whole or not at all, also when the machine goes down: containers are found by it.
fn write(file: &Path, tag: &str) -> std::io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let partial = file.with_extension("partial");
    let mut written = std::fs::File::create(&partial)?;
    writeln!(written, "{tag}")?;
    written.sync_all()?;
    std::fs::rename(&partial, file)?;
    std::fs::File::open(directory)?.sync_all()
}

fn tag_file(directories: &Directories) -> PathBuf {
    directories.data.join("docker/instance")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found(wanted: &DockerConfig, variables: &[(&str, &str)]) -> Result<EngineAddress> {
        address(wanted, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_clients_variables_count_where_nothing_is_configured() {
        let mut wanted = DockerConfig::default();
        let usual = found(&wanted, &[]).unwrap();
        assert_eq!(usual.to_string(), "unix:///var/run/docker.sock");
        let host = ("DOCKER_HOST", "tcp://engine:1");
        let by_variable = found(&wanted, &[host]).unwrap();
        assert_eq!(by_variable.to_string(), "tcp://engine:1");
        let tls = [
            host,
            ("DOCKER_TLS_VERIFY", "1"),
            ("DOCKER_CERT_PATH", "/certs"),
        ];
        let EngineAddress::Tls(_, files) = found(&wanted, &tls).unwrap() else {
            panic!("TLS was asked for");
        };
        assert_eq!(files.ca, Path::new("/certs/ca.pem"));
        wanted.socket = "unix:///other.sock".to_owned();
        let configured = found(&wanted, &tls).unwrap();
        assert_eq!(configured.to_string(), "unix:///other.sock");
    }

    #[test]
    fn what_is_no_address_is_named_with_where_it_stands() {
        let mut wanted = DockerConfig::default();
        let error = found(&wanted, &[("DOCKER_HOST", "ssh://me@there")]).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("DOCKER_HOST: "),
            "{error:#}"
        );
        wanted.socket = "nonsense".to_owned();
        let error = found(&wanted, &[]).unwrap_err();
        assert!(format!("{error:#}").starts_with("providers.docker.socket: "));
        assert!(!names_variable(&error));
    }

    #[test]
    fn a_tag_is_chosen_once_and_torn_ones_are_replaced() {
        let home = tempfile::tempdir().unwrap();
        let directories = Directories::below(home.path());
        let first = tag(&directories).unwrap();
        assert_eq!(tag(&directories).unwrap(), first);
        std::fs::write(tag_file(&directories), "torn").unwrap();
        let second = tag(&directories).unwrap();
        assert!(second != first && second.len() == 12);
    }
}
