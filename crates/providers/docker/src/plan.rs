//! Planning a container: from the spec of a sandbox to everything that its container is started with.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stacyvm_provider::ops::Configure;
use stacyvm_provider::{BoxSpec, ImageDefaults, NetworkMode, ProviderError};

use crate::agent::AgentUser;
use crate::images::{EngineImages, LocalImage};
use crate::network::Network;
use crate::parameters::{self, ContainerDefaults, Resolved};
use crate::probe::EngineProbe;
use crate::start::ContainerPlan;
use crate::traefik::Traefik;

/// The open files of a process where the engine cannot give more. Without `CAP_SYS_RESOURCE` the
/// kernel's own limit of a process is the maximum.
pub(crate) const REDUCED_OPEN_FILES: u64 = 20_000;

/// Makes plans of containers.
#[derive(Debug)]
pub(crate) struct Planner {
    images: Arc<EngineImages>,
    probe: Arc<EngineProbe>,
    network: Arc<Network>,
    defaults: ContainerDefaults,
    traefik: Option<Traefik>,
    /// The open files that the engine can give to a process, as far as is known.
    max_open_files: AtomicU64,
}

impl Planner {
    pub(crate) fn new(
        images: Arc<EngineImages>,
        probe: Arc<EngineProbe>,
        network: Arc<Network>,
        defaults: ContainerDefaults,
        traefik: Option<Traefik>,
    ) -> Self {
        Self {
            images,
            probe,
            network,
            defaults,
            traefik,
            max_open_files: AtomicU64::new(u64::MAX),
        }
    }

    /// The plan of a sandbox's container.
    ///
    /// # Errors
    /// When the image is missing, or the engine cannot make such a sandbox.
    pub(crate) async fn plan(&self, spec: &BoxSpec) -> Result<ContainerPlan, ProviderError> {
        let image = self.images.require(&spec.image).await?;
        let machine = self.probe.current().await?;
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
        let (user, no_such_user) = user(spec, &image)?;
        let (network, name_servers) = self.network.of_container(&spec.network)?;
        let resolved = Resolved {
            image: &image.id,
            runtime,
            agent: &machine.agent,
            user,
            network: &network,
            name_servers,
            cores: machine.cores,
            max_open_files: self.max_open_files.load(Ordering::Relaxed),
            labels: self.traefik_labels(spec, &network),
        };
        let body = parameters::container_body(&self.defaults, spec, &resolved)?;
        Ok(ContainerPlan {
            name: self.defaults.names.container(&spec.id),
            body,
            runtime: runtime.kind,
            configure: configure(spec, &image),
            no_such_user,
        })
    }

    /// The network of a sandbox that names none.
    pub(crate) fn default_network(&self) -> NetworkMode {
        self.network.default_mode()
    }

    /// Limits open files to [`REDUCED_OPEN_FILES`] from now on; true for the first call.
    pub(crate) fn reduce_open_files(&self) -> bool {
        let before = self
            .max_open_files
            .swap(REDUCED_OPEN_FILES, Ordering::Relaxed);
        before != REDUCED_OPEN_FILES
    }

    /// The labels for Traefik. A container without a network has none, because Traefik cannot reach
    /// it.
    fn traefik_labels(&self, spec: &BoxSpec, network: &str) -> HashMap<String, String> {
        let has_network = spec.network != NetworkMode::None;
        let traefik = self.traefik.as_ref().filter(|_| has_network);
        traefik.map_or_else(HashMap::new, |traefik| traefik.labels(&spec.id, network))
    }
}

/// The user of the sandbox's commands, and the error message for an image without a user of that
/// name.
fn user<'a>(
    spec: &'a BoxSpec,
    image: &'a LocalImage,
) -> Result<(AgentUser<'a>, String), ProviderError> {
    let of_spec = spec.user.as_deref().filter(|user| !user.is_empty());
    let of_image = image.config.user.as_deref().filter(|user| !user.is_empty());
    let (user, message) = match (of_spec, of_image) {
        (Some("user" | "1000"), _) | (None, None) => {
            return Ok((AgentUser::Default, String::new()));
        }
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
        return Err(ProviderError::Invalid(message));
    }
    Ok((AgentUser::Named(user), message))
}

fn shown(user: &str) -> String {
    let cut: String = user.chars().take(64).collect();
    format!("{cut:?}")
}

/// The defaults of the sandbox's commands. The image's user is not among them, because the agent is
/// started with it.
fn configure(spec: &BoxSpec, image: &LocalImage) -> Configure {
    let config = &image.config;
    let defaults = ImageDefaults {
        env: config.env.as_deref().unwrap_or_default(),
        working_dir: config.working_dir.as_deref().filter(|dir| !dir.is_empty()),
    };
    let named = spec.user.as_deref();
    let named = named.filter(|user| !matches!(*user, "" | "user" | "1000"));
    defaults.under(spec, named.map(str::to_owned))
}
