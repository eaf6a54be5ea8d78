//! The provider itself: what the orchestrator calls.

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use stacyvm_image::Reference;
use stacyvm_provider::{
    BoxInfo, BoxMonitor, BoxSpec, BoxState, Boxes, Capability, Egress, Health, ImageHold, ImageOps,
    ImageSource, NetworkMode, Networks, Notice, Notices, Provider, ProviderError, ProviderInfo,
    SandboxOps, Unclaimed,
};
use stacyvm_types::{Isolation, SandboxId, SandboxStats, Vcpus};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use tracing::Instrument;

use crate::boxes::BoxEntry;
use crate::config::{NativeConfig, launcher_count, valid_instance};
use crate::image_ops::{NativeImages, Shelf};
use crate::image_users::ImageUsers;
use crate::images::HOST;
use crate::inner::Inner;
use crate::launcher::Launchers;
use crate::opened::Opened;
use crate::ports::Ports;
use crate::{agent, cgroups, create, io, stats, watch};

/// What a health check's sandbox may use.
const PROBE_MEMORY_MB: u64 = 64;
const PROBE_PIDS: u32 = 32;
/// How often the host's ways out are looked at.
const TEND_EVERY: Duration = Duration::from_secs(10);
const PROBE_FILES: u64 = 1024;
/// How long operations under way may take to end when the provider is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(45);

/// Sandboxes from kernel namespaces.
#[derive(Debug)]
pub struct NativeProvider {
    inner: Arc<Inner>,
    /// True once closed. Operations that make or remove hold it for reading.
    closed: Arc<RwLock<bool>>,
    /// Follows what changes on the host while we run.
    tending: tokio::task::JoinHandle<()>,
    /// Held while we run: two providers over one directory would give out the same ids twice.
    _lock: File,
}

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

    /// Like `start`, and says how far the first view of the host is: entries done, entries in all.
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
            let config = config.clone();
            let notices = notices.clone();
            move || Opened::new(&config, &*progress, &notices)
        });
        let Opened {
            lock,
            boxes,
            disks,
            images,
            store,
            incoming,
            trash,
            network,
        } = opened
            .await
            .map_err(|error| ProviderError::backend("open the data directory", "", error))??;
        let launchers = Launchers::start(&config.launcher_program, launcher_count(&config));
        let launchers = match launchers {
            Ok(launchers) => launchers,
            Err(error) => {
                let used = !boxes.leases().is_empty();
                let _ = tokio::task::spawn_blocking(move || network.close(used)).await;
                let kind = error.kind().to_string();
                return Err(ProviderError::backend("start the launcher", kind, error));
            }
        };
        let (io, io_degraded) = io::limits(&config.io, &config.data_dir);
        let degraded = disks.degraded().into_iter().chain(io_degraded.clone());
        let users = ImageUsers::new(&config.data_dir, config.runs_dir.clone());
        let inner = Arc::new(Inner {
            degraded: Mutex::new(degraded.collect()),
            io,
            io_degraded,
            boxes,
            disks,
            images,
            shelf: Shelf::new(store, users, incoming, config.pull.clone()),
            launchers,
            trash,
            cgroup_parent: format!("stacyvm/{}", config.instance),
            notices,
            network,
            ports: Ports::start(),
        });
        tokio::spawn(watch::run(Arc::downgrade(&inner)));
        Ok(Self {
            tending: tokio::spawn(tend(inner.clone())),
            inner,
            closed: Arc::default(),
            _lock: lock,
        })
    }

    /// Process ids of the launchers that run.
    pub fn launcher_pids(&self) -> Vec<u32> {
        self.inner.launchers.pids()
    }

    /// The host's process id of a box's first process, while it lives.
    pub fn first_process(&self, id: &SandboxId) -> Option<i32> {
        let process = self.inner.boxes.get(id)?.process()?;
        (!process.ended()).then_some(process.pid)
    }

    /// Says that the provider is open, for as long as the guard lives.
    async fn enter(&self) -> Result<OwnedRwLockReadGuard<bool>, ProviderError> {
        let guard = self.closed.clone().read_owned().await;
        if *guard {
            return Err(ProviderError::Unavailable(
                "provider native is shutting down".to_owned(),
            ));
        }
        Ok(guard)
    }

    async fn create_box(
        &self,
        spec: BoxSpec,
        probe: bool,
    ) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        let guard = self.enter().await?;
        let (answer, caller) = tokio::sync::oneshot::channel();
        let inner = self.inner.clone();
        let making = async move {
            let made = create::create(inner.clone(), spec, probe).await;
            // Dropped when the caller has gone, and then it removes the sandbox.
            let _ = answer.send(made.map(|(entry, sandbox)| {
                let removing = remove_unclaimed(inner, entry, guard);
                Unclaimed::new(sandbox, removing.in_current_span())
            }));
        };
        tokio::spawn(making.in_current_span());
        let made = caller.await.map_err(|error| {
            ProviderError::backend("make the sandbox", "the server's task ended", error)
        })?;
        Ok(made?.claim())
    }

    /// What must be pulled before `image` can be used.
    async fn missing_image(&self, image: &str) -> Result<Option<Reference>, ProviderError> {
        if image == HOST {
            return Ok(None);
        }
        let (inner, image) = (self.inner.clone(), image.to_owned());
        blocking("look the image up", move || inner.images.missing(&image)).await
    }

    /// Makes a sandbox, hears its agent, removes it.
    async fn try_it(&self) -> Result<(), ProviderError> {
        let inner = self.inner.clone();
        blocking("look at the host", move || {
            inner.images.refresh_host()?;
            let views = inner.views_in_use();
            let current = inner.images.host_generation();
            let used = |name: &str| name == current || views.contains(name);
            if let Err(error) = inner.images.sweep(&used, &|path| inner.trash.take(path)) {
                tracing::warn!(%error, "old views of the host could not be removed");
            }
            Ok(())
        })
        .await?;
        let id = self.unused_id()?;
        let spec = BoxSpec {
            id: id.clone(),
            image: HOST.to_owned(),
            isolation: Isolation::Container,
            memory_mb: PROBE_MEMORY_MB,
            vcpus: Vcpus::ONE,
            pids_limit: PROBE_PIDS,
            open_files: PROBE_FILES,
            disk_mb: None,
            read_only_rootfs: false,
            network: NetworkMode::None,
            user: None,
            workdir: None,
            env: Default::default(),
        };
        let made = self.create_box(spec, true).await;
        let removed = self.destroy(&id).await;
        made?;
        removed
    }

    fn unused_id(&self) -> Result<SandboxId, ProviderError> {
        loop {
            let mut bytes = [0; 4];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(
                |error| ProviderError::backend("choose an id", error.to_string(), error),
            )?;
            let id = SandboxId::from_u32(u32::from_ne_bytes(bytes));
            if self.inner.boxes.get(&id).is_none() {
                return Ok(id);
            }
        }
    }
}

/// Removes a sandbox that never arrived at the caller who asked for it.
async fn remove_unclaimed(
    inner: Arc<Inner>,
    entry: Arc<BoxEntry>,
    _open: OwnedRwLockReadGuard<bool>,
) {
    let _lock = entry.lock.lock().await;
    if !inner.boxes.is_current(&entry) {
        return;
    }
    if let Err(error) = inner.remove(&entry).await {
        tracing::error!(sandbox_id = %entry.id, %error, "a sandbox that nobody waits for could not be removed");
    }
}

/// Looks after the network for as long as the provider runs.
async fn tend(inner: Arc<Inner>) {
    let Some(bridge) = inner.network.bridge.clone() else {
        return;
    };
    let supervising = bridge.clone().supervise(inner.notices.clone());
    let following = async {
        loop {
            tokio::time::sleep(TEND_EVERY).await;
            let bridge = bridge.clone();
            let tended = tokio::task::spawn_blocking(move || bridge.tend()).await;
            if let Ok(Err(error)) = tended {
                tracing::warn!(%error, "the network does not follow the host's");
            }
        }
    };
    tokio::join!(following, supervising);
}

/// Runs what may block on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ProviderError> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| ProviderError::backend(step, "", error))?
}

impl ProviderInfo for NativeProvider {
    fn name(&self) -> &'static str {
        "native"
    }

    fn isolation(&self) -> Isolation {
        Isolation::Container
    }

    fn isolations(&self) -> Vec<Isolation> {
        vec![self.isolation()]
    }

    fn capabilities(&self) -> Vec<Capability> {
        let mut all = vec![
            Capability::Exec,
            Capability::Files,
            Capability::Pty,
            Capability::DetachedExec,
            Capability::Forward,
            Capability::ResourceLimits,
            Capability::ReadOnlyRootfs,
            Capability::NetworkNone,
            Capability::Images,
            Capability::Stats,
        ];
        if let Some(bridge) = self.inner.network.offered() {
            all.push(Capability::NetworkBridge);
            if bridge.has_names() {
                all.push(Capability::EgressDomains);
            }
        }
        if self.inner.disks.available() {
            all.push(Capability::DiskLimit);
        }
        all
    }

    fn default_image(&self) -> &str {
        HOST
    }

    fn default_network(&self) -> NetworkMode {
        match self.inner.network.offered() {
            Some(_) => NetworkMode::Bridge(Egress::Open),
            None => NetworkMode::None,
        }
    }

    fn degradations(&self) -> Vec<String> {
        let launched = self
            .inner
            .degraded
            .lock()
            .expect("no holder of this lock panics");
        let mut all = launched.clone();
        all.extend(self.inner.network.degradations());
        all
    }
}

#[async_trait]
impl Provider for NativeProvider {
    async fn health(&self) -> Health {
        let started = Instant::now();
        let result = self.try_it().await;
        Health {
            healthy: result.is_ok(),
            error: result
                .err()
                .map(|error| format!("{error}; hint: run \"stacyvm doctor\"")),
            latency: started.elapsed(),
        }
    }

    fn images(&self) -> Option<Arc<dyn ImageOps>> {
        Some(Arc::new(NativeImages::new(self.inner.clone())))
    }

    fn networks(&self) -> Option<&dyn Networks> {
        Some(self)
    }

    async fn close(&self) {
        self.inner.shelf.pulls.close();
        match tokio::time::timeout(CLOSE_LIMIT, self.closed.write()).await {
            Ok(mut closed) => *closed = true,
            Err(_) => tracing::warn!("the native provider closes with operations under way"),
        }
        self.inner.launchers.close().await;
        self.tending.abort();
        let inner = self.inner.clone();
        let _ = tokio::task::spawn_blocking(move || {
            inner.trash.stop();
            inner.network.close(!inner.boxes.leases().is_empty());
            cgroups::remove_empty_parents(&inner.cgroup_parent);
        })
        .await;
    }
}

#[async_trait]
impl Boxes for NativeProvider {
    async fn create(&self, spec: &BoxSpec) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        self.create_box(spec.clone(), false).await
    }

    async fn open(&self, id: &SandboxId) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        let entry = self.inner.boxes.get(id).ok_or_else(|| no_such(id))?;
        let _lock = entry.lock.lock().await;
        if !self.inner.boxes.is_current(&entry) {
            return Err(no_such(id));
        }
        if entry.state() != BoxState::Running {
            return Err(ProviderError::Backend {
                step: "open the sandbox",
                message: "its first process has ended".to_owned(),
                source: None,
            });
        }
        let known = entry.facts().agent.clone();
        if let Some(agent) = known {
            return Ok(agent);
        }
        let agent = agent::connect(&entry, self.inner.ports.as_ref(), None)
            .await
            .map_err(|error| {
                ProviderError::backend("open the sandbox", error.to_string(), error)
            })?;
        entry.facts().agent = Some(agent.clone());
        Ok(agent)
    }

    async fn list(&self) -> Result<Vec<BoxInfo>, ProviderError> {
        let inner = self.inner.clone();
        blocking("list the sandboxes", move || inner.list()).await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), ProviderError> {
        let guard = self.enter().await?;
        let (inner, id) = (self.inner.clone(), id.clone());
        // A task of its own: a caller who goes away does not stop it half way.
        let removing = async move {
            let _open = guard;
            let entry = inner.boxes.get_or_bare(&id);
            let _lock = entry.lock.lock().await;
            if inner.boxes.is_current(&entry) {
                inner.remove(&entry).await
            } else {
                Ok(())
            }
        };
        tokio::spawn(removing.in_current_span())
            .await
            .map_err(|error| ProviderError::backend("remove the sandbox", "", error))?
    }
}

#[async_trait]
impl BoxMonitor for NativeProvider {
    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats, ProviderError> {
        let entry = self.inner.boxes.get(id).ok_or_else(|| no_such(id))?;
        blocking("measure the sandbox", move || Ok(stats::measure(&entry))).await
    }

    async fn wait_exit(&self, id: &SandboxId) {
        let process = self.inner.boxes.get(id).and_then(|entry| entry.process());
        if let Some(process) = process {
            process.wait().await;
        }
    }

    async fn cause_of_end(&self, id: &SandboxId) -> Option<&'static str> {
        let (inner, entry) = (self.inner.clone(), self.inner.boxes.get(id)?);
        let looking = move || {
            watch::look(&inner, &entry);
            entry.facts().told.just_out_of_memory()
        };
        let memory = tokio::task::spawn_blocking(looking).await.ok()?;
        memory.then_some("memory")
    }

    fn notices(&self) -> Option<tokio::sync::mpsc::Receiver<Notice>> {
        self.inner.notices.listen()
    }
}

#[async_trait]
impl ImageSource for NativeProvider {
    async fn check_image(&self, image: &str) -> Result<(), ProviderError> {
        self.missing_image(image).await.map(drop)
    }

    async fn prepare_image(&self, image: &str) -> Result<ImageHold, ProviderError> {
        if image == HOST {
            return Ok(ImageHold::default());
        }
        if let Some(reference) = self.missing_image(image).await? {
            // Its own guard ends it when nobody waits any more.
            let pulls = &self.inner.shelf.pulls;
            pulls.pull(reference, false, None).await?;
        }
        let (inner, image) = (self.inner.clone(), image.to_owned());
        let base = blocking("look the image up", move || inner.images.find(&image)).await?;
        Ok(ImageHold::new(base))
    }
}

#[async_trait]
impl Networks for NativeProvider {
    async fn network(&self, id: &SandboxId) -> Result<NetworkMode, ProviderError> {
        let entry = self.inner.boxes.get(id).ok_or_else(|| no_such(id))?;
        let lease = entry.facts().network.clone();
        Ok(lease.map_or(NetworkMode::None, |lease| lease.mode()))
    }

    async fn set_egress(&self, id: &SandboxId, egress: &Egress) -> Result<(), ProviderError> {
        let guard = self.enter().await?;
        let entry = self.inner.boxes.get(id).ok_or_else(|| no_such(id))?;
        let (inner, egress) = (self.inner.clone(), egress.clone());
        // A task of its own: record, program and cable must not differ because a caller went away.
        let changing = async move {
            let _open = guard;
            let _lock = entry.lock.lock().await;
            if !inner.boxes.is_current(&entry) {
                return Err(no_such(&entry.id));
            }
            inner.set_egress(&entry, &egress).await
        };
        tokio::spawn(changing.in_current_span())
            .await
            .map_err(|error| ProviderError::backend("change what a sandbox reaches", "", error))?
    }
}

fn no_such(id: &SandboxId) -> ProviderError {
    ProviderError::NotFound(format!("sandbox {id} not found by provider native"))
}
