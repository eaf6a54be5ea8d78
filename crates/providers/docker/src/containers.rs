//! The containers and volumes of one server in an engine: creating, inspecting, changing, removing.
//!
//! The one rule: when a removal returns without an error, nothing is left of what was removed.

use std::sync::Arc;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary, ContainerUpdateBody,
};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, ListContainersOptions, RemoveContainerOptions,
    RemoveVolumeOptions, RenameContainerOptions, StartContainerOptions,
};
use rustix::rand::{GetRandomFlags, getrandom};
use stacyvm_provider::ProviderError;
use tokio::time::Instant;

use crate::engine::{Engine, EngineError, QUERY_TIMEOUT, WORK_TIMEOUT};
use crate::names::EngineNames;

/// The pause between two attempts to remove a container that is being removed already.
const REMOVAL_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The containers of one server. A clone is another handle to the same engine.
#[derive(Clone, Debug)]
pub(crate) struct Containers {
    pub(crate) engine: Arc<Engine>,
    pub(crate) names: EngineNames,
}

impl Containers {
    /// Creates a container without starting it. `step` says in errors what it is for.
    pub(crate) async fn create(
        &self,
        step: &'static str,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<(), EngineError> {
        let options = CreateContainerOptions {
            name: Some(name.to_owned()),
            ..CreateContainerOptions::default()
        };
        let creating = self
            .engine
            .request(step, WORK_TIMEOUT, |docker| async move {
                docker.create_container(Some(options), body).await
            });
        creating.await.map(drop)
    }

    /// Starts a container.
    pub(crate) async fn start(&self, name: &str) -> Result<(), EngineError> {
        let starting =
            self.engine
                .request("start the container", WORK_TIMEOUT, |docker| async move {
                    let options = None::<StartContainerOptions>;
                    docker.start_container(name, options).await
                });
        starting.await
    }

    /// The engine's description of a container; none when there is none of this name.
    pub(crate) async fn inspect(
        &self,
        name: &str,
    ) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let inspecting = self.engine.request(
            "look at the container",
            QUERY_TIMEOUT,
            |docker| async move {
                let options = None::<InspectContainerOptions>;
                docker.inspect_container(name, options).await
            },
        );
        match inspecting.await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All containers of this server, running or not.
    pub(crate) async fn list(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(self.names.filter()),
            ..ListContainersOptions::default()
        };
        let listing =
            self.engine
                .request("list the containers", QUERY_TIMEOUT, |docker| async move {
                    docker.list_containers(Some(options)).await
                });
        listing.await
    }

    /// Gives a warm container the name of a sandbox, which makes it that sandbox's.
    pub(crate) async fn rename(&self, from: &str, to: &str) -> Result<(), EngineError> {
        let options = RenameContainerOptions {
            name: to.to_owned(),
        };
        let renaming = self.engine.request(
            "hand a warm container over",
            QUERY_TIMEOUT,
            |docker| async move { docker.rename_container(from, options).await },
        );
        renaming.await
    }

    /// Gives a warm container other limits.
    pub(crate) async fn update(
        &self,
        name: &str,
        limits: ContainerUpdateBody,
    ) -> Result<(), EngineError> {
        let updating = self.engine.request(
            "limit a warm container",
            QUERY_TIMEOUT,
            |docker| async move { docker.update_container(name, limits).await },
        );
        updating.await
    }

    /// Kills and removes a container with its unnamed volumes; success when there is none.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), ProviderError> {
        let deadline = Instant::now() + WORK_TIMEOUT;
        loop {
            let options = RemoveContainerOptions {
                force: true,
                v: true,
                ..RemoveContainerOptions::default()
            };
            let removing =
                self.engine
                    .request("remove the container", WORK_TIMEOUT, |docker| async move {
                        docker.remove_container(name, Some(options)).await
                    });
            match removing.await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_not_found() => return Ok(()),
                // Another removal is under way: it is complete when the container is not found.
                Err(error) if error.is_conflict() && Instant::now() < deadline => {
                    tokio::time::sleep(REMOVAL_RETRY_DELAY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes a volume; success when there is none.
    pub(crate) async fn remove_volume(&self, name: &str) -> Result<(), ProviderError> {
        let removing =
            self.engine
                .request("remove the volume", QUERY_TIMEOUT, |docker| async move {
                    let options = None::<RemoveVolumeOptions>;
                    docker.remove_volume(name, options).await
                });
        match removing.await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A name that no other trial container has.
    pub(crate) fn new_trial_name(&self) -> String {
        self.names.trial(random())
    }

    /// A name that no other warm container has.
    pub(crate) fn new_warm_name(&self) -> String {
        self.names.warm(random())
    }
}

/// A random number; 0 where the system has none yet. Two containers of the same name at once are
/// refused by the engine, so that the second is tried again.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}
