//! The task that makes warm containers in the background, one at a time.
//!
//! A failure, such as an absent engine or an image that is not here yet, is retried with growing
//! pauses.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as State};
use rustix::rand::{GetRandomFlags, getrandom};
use stacyvm_provider::{BoxSpec, ProviderError};
use stacyvm_types::{Isolation, SandboxId};

use super::pool::{Pool, ReadyContainer};
use super::settings::WarmSettings;
use super::shape::{AdjustableLimits, SHAPE_LABEL, Shape};
use crate::containers::Containers;
use crate::engine::EngineError;
use crate::plan::Planner;
use crate::start::{ContainerPlan, ContainerStarter};

/// How often the ready containers are checked while none is taken.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// The pauses after failures, doubled each time, with jitter.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(120);

/// Makes the wanted containers and adds them to the pool.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) containers: Containers,
    pub(super) starter: ContainerStarter,
    pub(super) planner: Arc<Planner>,
    pub(super) settings: WarmSettings,
    pub(super) pool: Arc<Pool>,
}

/// What the containers of one image look like.
struct WantedContainer {
    shape: Shape,
    limits: AdjustableLimits,
    plan: ContainerPlan,
}

/// The wanted containers of one image.
struct WantedImage {
    image: String,
    count: usize,
    /// An error when the image cannot be used now.
    container: Result<WantedContainer, ProviderError>,
}

/// A warm container in the engine.
struct FoundContainer {
    name: String,
    is_running: bool,
    shape: Option<Shape>,
}

impl Keeper {
    /// Works until it is dropped, or until nothing of an earlier server is left where no containers
    /// are wanted.
    pub(super) async fn run(&self) {
        let mut delay = MIN_RETRY_DELAY;
        let mut has_adopted = false;
        loop {
            match self.refill(&mut has_adopted).await {
                Ok(()) if self.settings.images.is_empty() => return,
                Ok(()) => {
                    delay = MIN_RETRY_DELAY;
                    let _ = tokio::time::timeout(CHECK_INTERVAL, self.pool.wait_for_take()).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "Warm containers cannot be made now");
                    tokio::time::sleep(delay + delay.mul_f64(jitter())).await;
                    delay = (delay * 2).min(MAX_RETRY_DELAY);
                }
            }
        }
    }

    /// Compares the containers in the engine with the wanted ones, and makes what is missing.
    async fn refill(&self, has_adopted: &mut bool) -> Result<(), ProviderError> {
        let found = self.list().await?;
        let wanted = self.wanted().await;
        if *has_adopted {
            self.remove_stale(&found, &wanted).await;
        } else {
            self.adopt(found, &wanted).await;
            *has_adopted = true;
        }
        let mut failed = None;
        for WantedImage {
            image,
            count,
            container,
        } in &wanted
        {
            let container = match container {
                Ok(container) => container,
                Err(error) => {
                    failed = Some(format!("image {image:?}: {error}"));
                    continue;
                }
            };
            while self.pool.count(&container.shape) < *count {
                if let Err(error) = self.make(image, container).await {
                    failed = Some(format!("image {image:?}: {error}"));
                    break;
                }
            }
        }
        failed.map_or(Ok(()), |message| {
            Err(ProviderError::Backend {
                step: "make a warm container",
                message,
                source: None,
            })
        })
    }

    /// The wanted containers, planned anew each time, because an image's name may have moved to
    /// another image.
    async fn wanted(&self) -> Vec<WantedImage> {
        let mut wanted = Vec::new();
        for (image, count) in &self.settings.images {
            let plan = self.planner.plan(&self.spec(image)).await;
            wanted.push(WantedImage {
                image: image.clone(),
                count: usize::try_from(*count).unwrap_or(usize::MAX),
                container: plan.map(|plan| WantedContainer {
                    shape: Shape::of(&plan.body),
                    limits: AdjustableLimits::of(&plan.body),
                    plan,
                }),
            });
        }
        wanted
    }

    /// The spec of a spawn that names an image and nothing else.
    fn spec(&self, image: &str) -> BoxSpec {
        let settings = &self.settings;
        BoxSpec {
            id: SandboxId::from_u32(0),
            image: image.to_owned(),
            // The weakest level of a container, which selects the configured runtime.
            isolation: Isolation::Container,
            memory_mb: settings.memory_mb,
            vcpus: settings.vcpus,
            pids_limit: settings.pids_limit,
            open_files: settings.open_files,
            disk_mb: settings.disk_mb,
            read_only_rootfs: false,
            network: self.planner.default_network(),
            user: None,
            workdir: None,
            env: Default::default(),
        }
    }

    async fn make(&self, image: &str, wanted: &WantedContainer) -> Result<(), ProviderError> {
        let name = self.containers.new_warm_name();
        let mut plan = wanted.plan.clone();
        plan.name = name.clone();
        plan.body.hostname = Some("sandbox".to_owned());
        let mut labels: HashMap<_, _> = self.containers.names.labels(None);
        labels.insert(SHAPE_LABEL.to_owned(), wanted.shape.label());
        plan.body.labels = Some(labels);
        // The connection ends here; claiming the container makes another one.
        self.starter.start(&plan).await?;
        tracing::debug!(container = name, image, "A warm container waits");
        self.pool.add(ReadyContainer {
            name,
            shape: wanted.shape.clone(),
            limits: wanted.limits,
        });
        Ok(())
    }

    /// Adds the wanted ones of an earlier server's containers to the pool, and removes the others.
    async fn adopt(&self, found: Vec<FoundContainer>, wanted: &[WantedImage]) {
        for FoundContainer {
            name,
            is_running,
            shape,
        } in found
        {
            let fitting = wanted.iter().find_map(|wanted| {
                let container = wanted.container.as_ref().ok()?;
                (is_running && shape.as_ref() == Some(&container.shape))
                    .then_some((&container.shape, wanted.count))
            });
            match fitting {
                Some((shape, count)) if self.pool.count(shape) < count => {
                    // Its limits are unknown, so they are set again before it is used.
                    self.pool.add(ReadyContainer {
                        name,
                        shape: shape.clone(),
                        limits: AdjustableLimits::default(),
                    });
                }
                _ => self.remove(&name).await,
            }
        }
    }

    /// Removes the containers that have ended, and those of an image that has been replaced.
    async fn remove_stale(&self, found: &[FoundContainer], wanted: &[WantedImage]) {
        let running = found.iter().filter(|found| found.is_running);
        let running: HashSet<&str> = running.map(|found| found.name.as_str()).collect();
        // Where one image cannot be planned now, no shape is known to be unwanted.
        let is_wanted = |shape: &Shape| {
            wanted.iter().any(|wanted| match &wanted.container {
                Ok(container) => container.shape == *shape,
                Err(_) => true,
            })
        };
        for name in self.pool.take_stale(&running, is_wanted) {
            self.remove(&name).await;
        }
    }

    async fn remove(&self, name: &str) {
        if let Err(error) = self.containers.remove(name).await {
            tracing::warn!(container = name, %error, "A warm container cannot be removed");
        }
    }

    /// Removes all warm containers of this server's tag, also those of an earlier server.
    pub(super) async fn remove_all(&self) -> Result<(), ProviderError> {
        for found in self.list().await? {
            self.containers.remove(&found.name).await?;
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<FoundContainer>, EngineError> {
        let names = &self.containers.names;
        let warm = |found: ContainerSummary| {
            let all = found.names.unwrap_or_default();
            let name = all.iter().find(|name| names.is_warm(name))?;
            let labels = found.labels.unwrap_or_default();
            Some(FoundContainer {
                name: name.trim_start_matches('/').to_owned(),
                is_running: found.state == Some(State::RUNNING),
                shape: labels.get(SHAPE_LABEL).map(|text| Shape::from_label(text)),
            })
        };
        let all = self.containers.list().await?;
        Ok(all.into_iter().filter_map(warm).collect())
    }
}

/// A random number between 0 and 1.
fn jitter() -> f64 {
    let mut bytes = [0; 2];
    // Without random numbers there is no jitter.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX)
}
