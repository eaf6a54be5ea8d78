//! Taking things of ours out of the engine, so that nothing of them is left when it is said so.

use std::time::Duration;

use bollard::query_parameters::{ListContainersOptions, RemoveVolumeOptions};
use stacyvm_provider::ProviderError;
use stacyvm_types::SandboxId;
use tokio::time::Instant;

use crate::engine::{EngineError, QUICK, WORK};
use crate::inner::{Inner, removal};

/// How often to look whether a removal that somebody else began is done.
const PAUSE: Duration = Duration::from_millis(50);

/// Ends a sandbox and removes all that it has in the engine. One that is not there is success.
pub(crate) async fn sandbox(inner: &Inner, id: &SandboxId) -> Result<(), ProviderError> {
    container(inner, &inner.house.names.container(id)).await?;
    volume(inner, &inner.house.names.workspace(id)).await?;
    inner.forget(id);
    Ok(())
}

/// Ends and removes a container; one that is not there is success.
pub(crate) async fn container(inner: &Inner, name: &str) -> Result<(), ProviderError> {
    let deadline = Instant::now() + WORK;
    loop {
        let this = name.to_owned();
        let removing = inner
            .engine
            .ask("remove the container", WORK, |docker| async move {
                docker.remove_container(&this, Some(removal())).await
            });
        match removing.await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_not_found() => return Ok(()),
            // Somebody removes it already: it is gone when the engine knows it no more.
            Err(error) if error.is_conflict() && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a volume; one that is not there is success.
pub(crate) async fn volume(inner: &Inner, name: &str) -> Result<(), ProviderError> {
    let name = name.to_owned();
    let removing = inner
        .engine
        .ask("remove the volume", QUICK, |docker| async move {
            docker
                .remove_volume(&name, None::<RemoveVolumeOptions>)
                .await
        });
    match removing.await {
        Ok(()) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes what trials have left: those of an earlier server, or one that was broken off.
pub(crate) async fn trials(inner: &Inner) -> Result<(), EngineError> {
    let options = ListContainersOptions {
        all: true,
        filters: Some(inner.house.names.filter()),
        ..ListContainersOptions::default()
    };
    let listing = inner
        .engine
        .ask("list the containers", QUICK, |docker| async move {
            docker.list_containers(Some(options)).await
        });
    for found in listing.await? {
        let names = found.names.unwrap_or_default();
        let Some(name) = names.iter().find(|name| inner.house.names.is_trial(name)) else {
            continue;
        };
        let name = name.trim_start_matches('/');
        if let Err(error) = container(inner, name).await {
            tracing::warn!(container = name, %error, "What a trial left cannot be removed");
        }
    }
    Ok(())
}
