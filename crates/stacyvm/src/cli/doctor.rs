//! `stacyvm doctor`: what this machine can do, provider by provider, and what stands in the way.
//!
//! Tries by doing: a sandbox is made and removed. Exits with 1 when something that is enabled does
//! not work here, else with 0.

mod docker;
mod report;
mod tools;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use stacyvm_config::{Loaded, Problem};

use super::global::{Global, OutputFormat};
use crate::embedded::Program;
use crate::failure::{hint_of, in_words};
use crate::wiring::directories::Directories;
use crate::wiring::providers;
use report::{Finding, Level, Provider, Report};

/// Find out what this machine can do, and what stands in the way.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON, as with --output json.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args, global: &Global) -> Result<ExitCode> {
    crate::logging::install_silent();
    let mut findings = Vec::new();
    let loaded = match global.loader().load() {
        Ok(loaded) => {
            let words = loaded.file.as_deref().map_or_else(
                || "no file, the defaults and the environment".to_owned(),
                |file| file.display().to_string(),
            );
            findings.push(Finding::new(Level::Ok, "configuration", words));
            findings.extend(
                loaded
                    .warnings
                    .iter()
                    .map(|found| problem(Level::Warning, found)),
            );
            Some(loaded)
        }
        Err(error) => {
            findings.extend(
                error
                    .problems
                    .iter()
                    .map(|found| problem(Level::Failure, found)),
            );
            findings.extend(
                error
                    .warnings
                    .iter()
                    .map(|found| problem(Level::Warning, found)),
            );
            None
        }
    };
    findings.extend(programs());
    let runtime = runtime()?;
    let mut providers = Vec::new();
    if let Some(loaded) = &loaded {
        let data = Directories::of(loaded).data;
        findings.push(data_directory(&data));
        let able = findings.iter().all(|found| found.level != Level::Failure);
        let native = loaded.config.providers.native.enabled;
        let mut native = Provider::new("native", native);
        // Else it would only say again what stands above.
        let found = match (native.enabled, able) {
            (true, true) => runtime.block_on(self::native(loaded)),
            _ => Vec::new(),
        };
        native.works = Some(able && found.iter().all(|found| found.level != Level::Failure))
            .filter(|_| native.enabled);
        native.isolation = Some(stacyvm_types::Isolation::Container.as_str());
        findings.extend(found);
        let mut mock = Provider::new("mock", mock_enabled(loaded));
        mock.works = mock.enabled.then_some(able);
        mock.isolation = Some(stacyvm_types::Isolation::None.as_str());
        let (docker, found) = runtime.block_on(docker::look(loaded, able));
        findings.extend(found);
        providers.extend([native, docker, mock]);
    }
    for (provider, found) in runtime.block_on(tools::others()) {
        providers.push(provider);
        findings.extend(found);
    }
    findings.push(runtime.block_on(server(global)));
    let report = Report::new(providers, findings);
    let form = if args.json {
        OutputFormat::Json
    } else {
        global.output
    };
    report.print(form)?;
    Ok(if report.able {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn mock_enabled(loaded: &Loaded) -> bool {
    let providers = &loaded.config.providers;
    providers.mock.enabled || providers.default == stacyvm_config::ProviderChoice::Mock
}

fn problem(level: Level, problem: &Problem) -> Finding {
    let found = Finding::new(level, "configuration", problem.to_string());
    match &problem.hint {
        Some(hint) => found.remedy(hint),
        None => found,
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Whether the data directory, or its nearest parent that exists, may be written.
fn data_directory(path: &Path) -> Finding {
    let existing = path.ancestors().find(|parent| parent.exists());
    let writable = existing
        .is_some_and(|existing| rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_ok());
    let words = path.display().to_string();
    if writable {
        Finding::new(Level::Ok, "data directory", words)
    } else {
        Finding::new(
            Level::Failure,
            "data directory",
            format!("{words} cannot be written"),
        )
        .remedy("set server.data_dir (STACYVM_SERVER_DATA_DIR) to a directory of yours")
    }
}

/// The agent and the launcher.
fn programs() -> Vec<Finding> {
    [("agent", Program::Agent), ("launcher", Program::Launcher)]
        .into_iter()
        .map(|(name, program)| match program.whereabouts() {
            Ok(place) => Finding::new(Level::Ok, name, place),
            Err(error) => Finding::new(Level::Failure, name, format!("{error:#}"))
                .remedy("run \"cargo xtask agent\" and build again, or take a released program"),
        })
        .collect()
}

/// What this machine has for native sandboxes, a trial included.
async fn native(loaded: &Loaded) -> Vec<Finding> {
    let directories = Directories::of(loaded);
    let settings = directories
        .prepare()
        .and_then(|()| providers::native_settings(&loaded.config, &directories, &[]));
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            let mut found = Finding::new(Level::Failure, "settings", in_words(&error));
            found.provider = Some("native");
            return vec![match hint_of(&error) {
                Some(hint) => found.remedy(hint),
                None => found,
            }];
        }
    };
    let findings = stacyvm_native::diagnose(&settings).await;
    findings
        .into_iter()
        .map(|found| Finding {
            level: match found.level {
                stacyvm_native::Level::Ok => Level::Ok,
                stacyvm_native::Level::Warn => Level::Warning,
                stacyvm_native::Level::Fail => Level::Failure,
            },
            provider: Some("native"),
            topic: found.name.to_owned(),
            words: found.found,
            remedy: found.remedy,
        })
        .collect()
}

/// Whether a server answers; that none does is no failure.
async fn server(global: &Global) -> Finding {
    let health = async {
        let client = global.client()?;
        let health = client.health().await.context("no server answers")?;
        anyhow::Ok((client.server().to_owned(), health))
    };
    match tokio::time::timeout(std::time::Duration::from_secs(3), health).await {
        Ok(Ok((url, health))) => Finding::new(
            Level::Ok,
            "server",
            format!("{url} answers, version {}", health.version),
        ),
        // Most machines where one asks the doctor have no server yet.
        Ok(Err(error)) => Finding::new(Level::Ok, "server", in_words(&error)),
        Err(_) => Finding::new(
            Level::Warning,
            "server",
            "it does not answer within 3 seconds",
        ),
    }
}
