//! Making one box, from its directory to its agent's first answer, in four stages.
//!
//! ```text
//!  network ──► directory and disk ──► launch ──► hello
//! ```
//! Each stage returns what it has made, and [`BoxCreator::make`] records it in the box's entry
//! before the next one begins, so that a removal finds all of it. A stage that fails leaves nothing
//! else behind.

mod directory;
mod hello;
mod launch;
mod network;
mod status;

use std::sync::Arc;

use stacyvm_launcher::control::{IoLimits, LaunchRequest, Limits, NetworkFiles};
use stacyvm_provider::{AgentSandbox, BoxSpec, ProviderError};

use crate::blocking::run_blocking;
use crate::boxes::{BoxEntry, BoxTable, Refusal};
use crate::degradations::Degradations;
use crate::disk::Disks;
use crate::exec_defaults;
use crate::images::ImageResolver;
use crate::launcher::Launchers;
use crate::network::{AllocatedNetwork, NetworkSupport};
use crate::remove::BoxRemover;
use crate::slots::{IDS_PER_SLOT, id_base};
use crate::sockets::SocketFactory;

use directory::PreparedDirectory;
use hello::Hello;

/// Makes boxes.
#[derive(Debug)]
pub(crate) struct BoxCreator {
    pub(crate) boxes: Arc<BoxTable>,
    pub(crate) images: Arc<ImageResolver>,
    pub(crate) disks: Arc<Disks>,
    pub(crate) network: Arc<NetworkSupport>,
    pub(crate) launchers: Arc<Launchers>,
    /// Sockets inside, where this process may make them.
    pub(crate) sockets: Option<SocketFactory>,
    pub(crate) remover: Arc<BoxRemover>,
    pub(crate) degradations: Arc<Degradations>,
    pub(crate) cgroup_parent: Arc<str>,
    /// How fast each box may read and write.
    pub(crate) io: Option<IoLimits>,
}

impl BoxCreator {
    /// Makes a box; on an error nothing of it is left. `probe` keeps it out of every list. The
    /// reconciler removes what is left when the future is dropped.
    pub(crate) async fn create(
        self: &Arc<Self>,
        spec: &BoxSpec,
        probe: bool,
    ) -> Result<(Arc<BoxEntry>, Arc<AgentSandbox>), ProviderError> {
        let limits = limits_of(spec, self.io)?;
        let (entry, slot) = self
            .boxes
            .reserve(&spec.id, probe)
            .map_err(|refusal| refused(refusal, spec))?;
        let _lock = entry.lock.clone().lock_owned().await;
        match self.make(&entry, slot, spec, limits).await {
            Ok(sandbox) => Ok((entry, sandbox)),
            Err(error) => {
                if let Err(left) = self.remover.remove(&entry).await {
                    tracing::error!(sandbox_id = %spec.id, error = %left, "a failed sandbox could not be removed");
                }
                Err(error)
            }
        }
    }

    /// Runs the stages, and records what each has made.
    async fn make(
        self: &Arc<Self>,
        entry: &Arc<BoxEntry>,
        slot: u32,
        spec: &BoxSpec,
        limits: Limits,
    ) -> Result<Arc<AgentSandbox>, ProviderError> {
        let network = network::allocate(&self.network, &spec.network).await?;
        let lease = network.as_ref().map(|network| network.lease.clone());
        entry.resources().network.clone_from(&lease);

        let (directory, registered) = tokio::join!(
            self.prepare_directory(entry, slot, spec, limits, network),
            network::register(&self.network, &spec.id, lease.as_ref()),
        );
        let mut directory = directory?;
        entry.resources().disk = directory.disk;
        registered?;

        let configure = exec_defaults::defaults(spec, directory.image.config(), directory.user);
        let descriptors = std::mem::take(&mut directory.descriptors);
        let files = network::files(&self.network, &spec.id, lease.as_ref());
        let request = self.launch_request(entry, slot, spec, limits, &directory, files);
        let mut hello = Hello::begin(entry, self.sockets.as_ref(), configure);
        let launched = launch::launch(
            &self.launchers,
            request,
            descriptors,
            directory.status,
            &mut hello,
        )
        .await?;
        {
            let mut resources = entry.resources();
            resources.process = Some(launched.process.clone());
            resources.cgroups = launched.cgroups;
            resources.limits = Some(limits);
            resources.host_view = directory.image.host_view;
        }
        self.degradations.report_launch(launched.degraded);

        let sandbox = hello
            .finish(spec, &launched.process, launched.status)
            .await?;
        entry.resources().agent = Some(sandbox.clone());
        Ok(sandbox)
    }
    /// The stage of everything that touches the disk, in one go on a thread that may block.
    async fn prepare_directory(
        self: &Arc<Self>,
        entry: &Arc<BoxEntry>,
        slot: u32,
        spec: &BoxSpec,
        limits: Limits,
        network: Option<AllocatedNetwork>,
    ) -> Result<PreparedDirectory, ProviderError> {
        let (creator, entry, spec) = (self.clone(), entry.clone(), spec.clone());
        run_blocking("prepare the sandbox's directory", move || {
            network::set_group(&creator.network, network.as_ref())?;
            let (images, disks) = (&creator.images, &creator.disks);
            directory::prepare(images, disks, &entry.dir, slot, &spec, limits, network)
        })
        .await
    }

    fn launch_request(
        &self,
        entry: &BoxEntry,
        slot: u32,
        spec: &BoxSpec,
        limits: Limits,
        directory: &PreparedDirectory,
        network: Option<NetworkFiles>,
    ) -> Box<LaunchRequest> {
        Box::new(LaunchRequest {
            seq: 0,
            id: spec.id.to_string(),
            disk: directory.has_own_file_system,
            box_dir: entry.dir.clone(),
            overlays: directory.image.overlays.clone(),
            read_only_rootfs: spec.read_only_rootfs,
            id_base: id_base(slot),
            id_count: IDS_PER_SLOT,
            uid: directory.user.uid,
            gid: directory.user.gid,
            limits,
            cgroup_parent: self.cgroup_parent.to_string(),
            network,
        })
    }
}

fn refused(refusal: Refusal, spec: &BoxSpec) -> ProviderError {
    match refusal {
        Refusal::Exists => ProviderError::Invalid(format!("sandbox {} exists already", spec.id)),
        Refusal::Full => ProviderError::Limit(
            "every range of user ids is taken: destroy sandboxes first".to_owned(),
        ),
    }
}

fn limits_of(spec: &BoxSpec, io: Option<IoLimits>) -> Result<Limits, ProviderError> {
    let memory_bytes = spec.memory_mb.checked_mul(1024 * 1024);
    match memory_bytes {
        Some(memory_bytes @ 1..)
            if !spec.vcpus.is_none() && spec.pids_limit > 0 && spec.open_files > 0 =>
        {
            Ok(Limits {
                memory_bytes,
                vcpus: spec.vcpus.cores(),
                pids: spec.pids_limit,
                open_files: spec.open_files,
                io,
            })
        }
        _ => Err(ProviderError::Invalid(
            "memory, vcpus and the limits of processes and files must be above 0 and not absurd"
                .to_owned(),
        )),
    }
}
