//! Making one container, from its parameters to its agent's first answer.
//!
//! Its rule: whoever fails leaves nothing. What a killed server leaves has a name that `list` reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, ContainerStateStatusEnum as Status};
use bollard::query_parameters::{CreateContainerOptions, StartContainerOptions};
use stacyvm_provider::ops::{Configure, OpError};
use stacyvm_provider::{
    AgentSandbox, BoxSpec, ImageDefaults, NetworkMode, ProviderError, directory_stands,
};
use tokio::time::Instant;

use crate::agent::{self, User};
use crate::connector::ContainerConnector;
use crate::engine::WORK;
use crate::images::{self, Local};
use crate::inner::{FEWER_FILES, Inner, Limits};
use crate::parameters::{self, Found};
use crate::runtimes::Kind;
use crate::{machine, removal, warm};

/// How long a container may take from its start to its agent's first answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The pauses between two attempts to reach the agent: the first is about what it takes to start.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// How often it is looked whether it still runs, while an attempt is under way.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// One container to be made.
#[derive(Clone, Debug)]
pub(crate) struct Making {
    pub(crate) name: String,
    pub(crate) body: ContainerCreateBody,
    pub(crate) kind: Kind,
    pub(crate) configure: Configure,
    /// What to say when the image does not have the user.
    pub(crate) user_words: String,
}

/// Makes a sandbox, of a warm container where one fits; on an error nothing of it is left.
pub(crate) async fn sandbox(
    inner: &Inner,
    spec: &BoxSpec,
) -> Result<Arc<AgentSandbox>, ProviderError> {
    let making = plan(inner, spec).await?;
    let limits = limits_of(&making.body);
    let made = match warm::claim(inner, &making, spec).await {
        Some(sandbox) => sandbox,
        None => cold(inner, making, spec).await?,
    };
    inner.remember(&spec.id, made.clone(), limits);
    Ok(made)
}

async fn cold(
    inner: &Inner,
    making: Making,
    spec: &BoxSpec,
) -> Result<Arc<AgentSandbox>, ProviderError> {
    match start(inner, &making).await {
        Err(error) if asks_for_fewer_files(&error, spec) && inner.lower_most_files() => {
            tracing::warn!(
                most = FEWER_FILES,
                "The engine gives fewer open files than a sandbox is to have"
            );
            let making = plan(inner, spec).await?;
            let sandbox = start(inner, &making).await?;
            settle(inner, making, spec, sandbox).await
        }
        Err(error) => Err(error),
        Ok(sandbox) => settle(inner, making, spec, sandbox).await,
    }
}

/// Connects to a container that runs already and now is what `making` describes.
pub(crate) async fn taken_over(
    inner: &Inner,
    making: Making,
    spec: &BoxSpec,
) -> Result<Arc<AgentSandbox>, ProviderError> {
    let sandbox = Arc::new(connection(inner, &making, making.configure.clone()));
    sandbox.connect().await.map_err(agent_failed)?;
    settle(inner, making, spec, sandbox).await
}

/// What is asked of the engine for a sandbox.
///
/// # Errors
/// When there is no such image, or the sandbox cannot be had here.
pub(crate) async fn plan(inner: &Inner, spec: &BoxSpec) -> Result<Making, ProviderError> {
    let image = images::present(inner, &spec.image).await?;
    let machine = machine::current(inner).await?;
    let (runtime, _) = machine.runtime_for(spec.isolation).ok_or_else(|| {
        ProviderError::Unsupported(format!(
            "provider docker has no runtime of level {}",
            spec.isolation.as_str()
        ))
    })?;
    if spec.disk_mb.is_some() && !machine.disk_limit {
        return Err(ProviderError::Unsupported(
            "provider docker lacks the capability disk-limit: the engine's storage driver has none"
                .to_owned(),
        ));
    }
    let (user, user_words) = user(spec, &image)?;
    let (network, name_servers) = inner.network.of_container(&spec.network)?;
    let found = Found {
        image: &image.id,
        runtime,
        agent: &machine.agent,
        user,
        network: &network,
        name_servers,
        cores: machine.cores,
        most_files: inner.most_files(),
        labels: traefik(inner, spec, &network),
    };
    let body = parameters::container(&inner.house, spec, &found)?;
    Ok(Making {
        name: inner.house.names.container(&spec.id),
        body,
        kind: runtime.kind,
        configure: configure(spec, &image),
        user_words,
    })
}

/// The limits that a container is made with.
fn limits_of(body: &ContainerCreateBody) -> Limits {
    body.host_config.as_ref().map(limits_in).unwrap_or_default()
}

/// The limits that the engine says a container has.
pub(crate) fn limits_in(host: &bollard::models::HostConfig) -> Limits {
    let number = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    let size = host
        .storage_opt
        .as_ref()
        .and_then(|options| options.get("size"));
    let disk = size.and_then(|size| size.strip_suffix('m')?.parse::<u64>().ok());
    Limits {
        memory: number(host.memory).unwrap_or(0),
        cpus: number(host.nano_cpus).unwrap_or(0) as f64 / 1e9,
        pids: number(host.pids_limit).unwrap_or(0),
        disk: disk.unwrap_or(0).saturating_mul(1024 * 1024),
    }
}

/// Who the agent takes for the sandbox's user, and what to say when the image has none of that name.
fn user<'a>(spec: &'a BoxSpec, image: &'a Local) -> Result<(User<'a>, String), ProviderError> {
    let wanted = spec.user.as_deref().filter(|user| !user.is_empty());
    let images = image.config.user.as_deref().filter(|user| !user.is_empty());
    let (user, words) = match (wanted, images) {
        (Some("user" | "1000"), _) | (None, None) => return Ok((User::Usual, String::new())),
        (Some(user), _) => (
            user,
            format!("user {} does not exist in the image", shown(user)),
        ),
        (None, Some(user)) => (
            user,
            format!(
                "the image's own user cannot be used: user {} does not exist in the image; hint: name a user in the request",
                shown(user)
            ),
        ),
    };
    if user.contains('\0') {
        return Err(ProviderError::Invalid(words));
    }
    Ok((User::Named(user), words))
}

fn shown(user: &str) -> String {
    let cut: String = user.chars().take(64).collect();
    format!("{cut:?}")
}

/// What the agent gives to commands that say nothing. The image's user is the agent's own already.
fn configure(spec: &BoxSpec, image: &Local) -> Configure {
    let config = &image.config;
    let defaults = ImageDefaults {
        env: config.env.as_deref().unwrap_or_default(),
        working_dir: config.working_dir.as_deref().filter(|dir| !dir.is_empty()),
    };
    let named = spec.user.as_deref();
    let named = named.filter(|user| !matches!(*user, "" | "user" | "1000"));
    defaults.under(spec, named.map(str::to_owned))
}

/// What a Traefik is told; one that is connected to nothing cannot be reached by it.
fn traefik(inner: &Inner, spec: &BoxSpec, network: &str) -> HashMap<String, String> {
    let connected = spec.network != NetworkMode::None;
    let traefik = inner.settings.traefik.as_ref().filter(|_| connected);
    traefik.map_or_else(HashMap::new, |traefik| traefik.labels(&spec.id, network))
}

/// Makes a container and returns when its agent answers; on an error nothing of it is left.
pub(crate) async fn start(
    inner: &Inner,
    making: &Making,
) -> Result<Arc<AgentSandbox>, ProviderError> {
    let (name, body) = (making.name.clone(), making.body.clone());
    let creating = inner
        .engine
        .ask("create the container", WORK, |docker| async move {
            let options = CreateContainerOptions {
                name: Some(name),
                ..CreateContainerOptions::default()
            };
            docker.create_container(Some(options), body).await
        });
    match creating.await {
        Ok(_) => {}
        // Somebody else's by that name: nothing of it is ours to remove.
        Err(error) if error.is_conflict() => {
            return Err(ProviderError::Invalid(format!(
                "container {} exists already",
                making.name
            )));
        }
        Err(error) => return Err(undone(inner, making, error.into()).await),
    }
    match run(inner, making).await {
        Ok(sandbox) => Ok(sandbox),
        Err(error) => Err(undone(inner, making, error).await),
    }
}

/// Removes what a failed attempt left, and hands its error on.
async fn undone(inner: &Inner, making: &Making, error: ProviderError) -> ProviderError {
    if let Err(left) = removal::container(inner, &making.name).await {
        tracing::error!(container = making.name, error = %left, "A failed container cannot be removed");
    } else if let Some(id) = inner.house.names.sandbox_of(&making.name)
        && let Err(left) = removal::volume(inner, &inner.house.names.workspace(&id)).await
    {
        tracing::error!(container = making.name, error = %left, "A failed container's volume cannot be removed");
    }
    error
}

async fn run(inner: &Inner, making: &Making) -> Result<Arc<AgentSandbox>, ProviderError> {
    let name = making.name.clone();
    let starting = inner
        .engine
        .ask("start the container", WORK, |docker| async move {
            docker
                .start_container(&name, None::<StartContainerOptions>)
                .await
        });
    starting.await?;
    let sandbox = Arc::new(connection(inner, making, making.configure.clone()));
    let deadline = Instant::now() + ANSWER_LIMIT;
    let mut pause = FIRST_PAUSE;
    loop {
        // Nobody may ever answer on the attachment of a container that ends just now.
        let connected = tokio::select! {
            connected = tokio::time::timeout_at(deadline, sandbox.connect()) => connected,
            reason = end(inner, making) => return Err(reason),
        };
        let error = match connected {
            Ok(Ok(())) => return Ok(sandbox),
            Ok(Err(error @ OpError::Gone(_))) => error,
            Ok(Err(error)) => return Err(agent_failed(error)),
            Err(_) => OpError::Gone("it did not answer in time".to_owned()),
        };
        if let Some(reason) = ended(inner, making).await? {
            return Err(reason);
        }
        if Instant::now() >= deadline {
            return Err(agent_failed(error));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits until the container runs no more, and says why.
async fn end(inner: &Inner, making: &Making) -> ProviderError {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match ended(inner, making).await {
            Ok(None) => {}
            Ok(Some(reason)) | Err(reason) => return reason,
        }
    }
}

/// Why the container runs no more; none while it runs.
async fn ended(inner: &Inner, making: &Making) -> Result<Option<ProviderError>, ProviderError> {
    let failed = |message: String| ProviderError::Backend {
        step: "start the agent",
        message,
        source: None,
    };
    let Some(found) = inner.inspect(&making.name).await? else {
        return Ok(Some(failed("its container was removed".to_owned())));
    };
    let state = found.state.unwrap_or_default();
    if !matches!(state.status, Some(Status::EXITED | Status::DEAD)) {
        return Ok(None);
    }
    let code = state.exit_code.unwrap_or(0);
    Ok(Some(
        if code == agent::NO_SUCH_USER && !making.user_words.is_empty() {
            ProviderError::Invalid(making.user_words.clone())
        } else if state.oom_killed == Some(true) {
            ProviderError::Invalid(
                "the agent needs more memory than the sandbox may have; hint: ask for more"
                    .to_owned(),
            )
        } else {
            failed(format!("it ended with code {code} before it answered"))
        },
    ))
}

/// An image's working directory counts only where it is there.
async fn settle(
    inner: &Inner,
    making: Making,
    spec: &BoxSpec,
    sandbox: Arc<AgentSandbox>,
) -> Result<Arc<AgentSandbox>, ProviderError> {
    let place = making.configure.workdir.as_deref();
    let Some(place) = place.filter(|_| spec.workdir.is_none()) else {
        return Ok(sandbox);
    };
    if directory_stands(&sandbox, place).await {
        return Ok(sandbox);
    }
    let configure = Configure {
        workdir: None,
        ..making.configure.clone()
    };
    let again = Arc::new(connection(inner, &making, configure));
    match again.connect().await {
        Ok(()) => Ok(again),
        Err(error) => Err(undone(inner, &making, agent_failed(error)).await),
    }
}

fn connection(inner: &Inner, making: &Making, configure: Configure) -> AgentSandbox {
    let connector = ContainerConnector::new(
        inner.engine.clone(),
        making.name.clone(),
        making.kind,
        inner.settings.attach_only,
    );
    AgentSandbox::new(connector, Some(configure))
}

/// Whether the engine could not give so many open files; it says so only in words.
fn asks_for_fewer_files(error: &ProviderError, spec: &BoxSpec) -> bool {
    spec.open_files > FEWER_FILES && error.to_string().contains("rlimit")
}

fn agent_failed(error: OpError) -> ProviderError {
    match error {
        OpError::Invalid(message) => ProviderError::Invalid(message),
        OpError::Unsupported(message) => ProviderError::Unsupported(message),
        other => ProviderError::backend("say hello to the agent", other.to_string(), other),
    }
}
