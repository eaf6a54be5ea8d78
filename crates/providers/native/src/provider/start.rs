//! Starting a provider: opening what is on disk, starting the launchers, and putting the parts
//! together.

use std::sync::Arc;
use std::time::Duration;

use stacyvm_provider::{Notices, ProviderError};

use super::NativeProvider;
use crate::config::{NativeConfig, launcher_count, valid_instance};
use crate::create::BoxCreator;
use crate::data_dir::DataDirectory;
use crate::degradations::Degradations;
use crate::image_ops::ImageState;
use crate::image_users::ImageUsers;
use crate::io;
use crate::launcher::Launchers;
use crate::limit_watch;
use crate::network::SandboxNetwork;
use crate::remove::BoxRemover;
use crate::sockets::SocketFactory;

/// How often the host's routes are checked.
const ROUTE_CHECK_INTERVAL: Duration = Duration::from_secs(10);

impl NativeProvider {
    /// Takes over what an earlier server left, makes the view of the host ready and starts the
    /// launchers.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be, `Unavailable` when another server has the
    /// directory, `Backend` when a step fails.
    pub async fn start(config: NativeConfig) -> Result<Self, ProviderError> {
        Self::start_with_progress(config, Box::new(|_, _| {})).await
    }

    /// Like `start`, and reports the progress of the first view of the host: entries done, entries
    /// in all.
    ///
    /// # Errors
    /// As for `start`.
    pub async fn start_with_progress(
        config: NativeConfig,
        progress: Box<dyn Fn(usize, usize) + Send + Sync>,
    ) -> Result<Self, ProviderError> {
        if !valid_instance(&config.instance) {
            return Err(ProviderError::Invalid(format!(
                "instance name {:?} may only have letters, digits, \"-\" and \"_\", at most 64",
                config.instance
            )));
        }
        let notices = Arc::<Notices>::default();
        let opened = tokio::task::spawn_blocking({
            let (config, notices) = (config.clone(), notices.clone());
            move || DataDirectory::open(&config, &*progress, &notices)
        });
        let opened = opened
            .await
            .map_err(|error| ProviderError::backend("open the data directory", "", error))??;
        match Launchers::start(&config.launcher_program, launcher_count(&config)) {
            Ok(launchers) => Ok(Self::assemble(&config, opened, launchers, notices)),
            Err(error) => {
                let DataDirectory { boxes, network, .. } = opened;
                let used = !boxes.leases().is_empty();
                let _ = tokio::task::spawn_blocking(move || network.close(used)).await;
                let kind = error.kind().to_string();
                Err(ProviderError::backend("start the launcher", kind, error))
            }
        }
    }

    /// Puts the parts together and starts the tasks that run beside them.
    fn assemble(
        config: &NativeConfig,
        opened: DataDirectory,
        launchers: Launchers,
        notices: Arc<Notices>,
    ) -> Self {
        let boxes = Arc::new(opened.boxes);
        let disks = Arc::new(opened.disks);
        let images = Arc::new(opened.images);
        let trash = Arc::new(opened.trash);
        let network = Arc::new(opened.network);
        let launchers = Arc::new(launchers);
        let cgroup_parent: Arc<str> = format!("stacyvm/{}", config.instance).into();
        let (io, io_degraded) = io::limits(&config.io, &config.data_dir);
        let degraded = disks.degraded().into_iter().chain(io_degraded);
        let degradations = Arc::new(Degradations::new(degraded.collect()));
        let users = ImageUsers::new(&config.data_dir, config.runs_dir.clone());
        let remover = Arc::new(BoxRemover {
            boxes: boxes.clone(),
            disks: disks.clone(),
            trash: trash.clone(),
            network: network.clone(),
            cgroup_parent: cgroup_parent.clone(),
        });
        let creator = Arc::new(BoxCreator {
            boxes: boxes.clone(),
            images: images.clone(),
            disks: disks.clone(),
            network: network.clone(),
            launchers: launchers.clone(),
            sockets: SocketFactory::start(),
            remover: remover.clone(),
            degradations: degradations.clone(),
            cgroup_parent: cgroup_parent.clone(),
            io,
        });
        tokio::spawn(limit_watch::run(Arc::downgrade(&boxes), notices.clone()));
        let following = tokio::spawn(follow_host(network.existing().cloned(), notices.clone()));
        Self {
            boxes,
            creator,
            remover,
            images,
            image_state: Arc::new(ImageState::new(
                opened.store,
                users,
                opened.incoming,
                config.pull.clone(),
            )),
            network,
            disks,
            trash,
            launchers,
            degradations,
            notices,
            cgroup_parent,
            closed: Arc::default(),
            following,
            _lock: opened.lock,
        }
    }
}

/// Keeps the network up to date with the host's routes, and the program that resolves names running.
async fn follow_host(network: Option<Arc<SandboxNetwork>>, notices: Arc<Notices>) {
    let Some(network) = network else { return };
    let supervising = network.clone().supervise_egress(notices);
    let following = async {
        loop {
            tokio::time::sleep(ROUTE_CHECK_INTERVAL).await;
            let network = network.clone();
            let followed = tokio::task::spawn_blocking(move || network.follow_host()).await;
            if let Ok(Err(error)) = followed {
                tracing::warn!(%error, "the network does not follow the host's");
            }
        }
    };
    tokio::join!(following, supervising);
}
