//! What the Docker provider has here: an engine, its runtimes, and what its trials say.

use std::time::Duration;

use stacyvm_config::{Loaded, ProviderChoice};
use stacyvm_docker::DockerProvider;
use stacyvm_provider::prelude::*;

use super::report::{Finding, Level, Provider};
use super::tools;
use crate::failure::{hint_of, in_words};
use crate::wiring::directories::Directories;
use crate::wiring::docker::settings;

const NAME: &str = "docker";
/// How long an engine that was not asked for may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The provider, and what was found. An engine that is not there is a failure only where it was
/// asked for. `able` says that nothing stands in the way that was found before.
pub(super) async fn look(loaded: &Loaded, able: bool) -> (Provider, Vec<Finding>) {
    let config = &loaded.config.providers;
    let asked_for = config.docker.enabled == Some(true) || config.default == ProviderChoice::Docker;
    let mut findings = tools::of(NAME).await;
    if !able || (config.docker.enabled == Some(false) && !asked_for) {
        return (Provider::new(NAME, asked_for), findings);
    }
    let missing = if asked_for { Level::Failure } else { Level::Ok };
    let directories = Directories::of(loaded);
    let made = directories
        .prepare()
        .and_then(|()| settings(&loaded.config, &directories))
        .and_then(|settings| {
            let address = settings.address.to_string();
            Ok((DockerProvider::new(settings)?, address))
        });
    let (provider, address) = match made {
        Ok(made) => made,
        Err(error) => {
            let found = Finding::new(missing, "settings", in_words(&error)).of(NAME);
            findings.push(match hint_of(&error) {
                Some(hint) => found.remedy(hint),
                None => found,
            });
            return (Provider::new(NAME, asked_for), findings);
        }
    };
    if !provider.answers(PROBE_TIMEOUT).await {
        let words = format!("no engine answers at {address}");
        let remedy = "start it, or set providers.docker.socket (or DOCKER_HOST)";
        findings.push(
            Finding::new(missing, "engine", words)
                .of(NAME)
                .remedy(remedy),
        );
        return (failed(asked_for), findings);
    }
    findings.push(Finding::new(Level::Ok, "engine", address).of(NAME));
    let health = provider.health().await;
    if let Some(error) = health.error {
        findings.push(Finding::new(Level::Failure, "trial", error).of(NAME));
        provider.close().await;
        return (failed(true), findings);
    }
    let levels: Vec<&str> = provider
        .isolations()
        .iter()
        .map(|level| level.as_str())
        .collect();
    findings.push(Finding::new(Level::Ok, "isolation", levels.join(", ")).of(NAME));
    for words in provider.degradations() {
        findings.push(Finding::new(Level::Warning, "lacks", words).of(NAME));
    }
    let mut works = Provider::new(NAME, true);
    works.works = Some(true);
    works.isolation = Some(provider.isolation().as_str());
    provider.close().await;
    (works, findings)
}

fn failed(enabled: bool) -> Provider {
    let mut failed = Provider::new(NAME, enabled);
    failed.works = enabled.then_some(false);
    failed
}
