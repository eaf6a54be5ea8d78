//! A backend in memory, for the faults that a real one does not show when asked.

mod inside;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use stacyvm_provider::{
    BoxInfo, BoxMonitor, BoxSpec, BoxState, Boxes, Capability, Egress, Health, ImageHold, ImageOps,
    ImageSource, NetworkMode, Networks, Notice, Notices, Provider, ProviderError, ProviderInfo,
    SandboxOps,
};
use stacyvm_types::{Isolation, SandboxId, SandboxStats};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use inside::FakeOps;

/// Something that can be held up.
#[derive(Debug)]
pub(super) struct Gate(watch::Sender<bool>);

impl Gate {
    fn open_gate() -> Self {
        Self(watch::Sender::new(true))
    }

    pub(super) fn shut(&self) {
        self.0.send_replace(false);
    }

    pub(super) fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

#[derive(Debug)]
struct FakeBox {
    state: BoxState,
    /// Cancelled when its workload ends.
    ended: CancellationToken,
    /// False while it is paused.
    moving: watch::Sender<bool>,
}

pub(super) struct Fake {
    name: &'static str,
    isolations: Vec<Isolation>,
    boxes: Mutex<BTreeMap<SandboxId, FakeBox>>,
    pub(super) specs: Mutex<Vec<BoxSpec>>,
    pub(super) create_gate: Gate,
    pub(super) list_gate: Gate,
    /// Images that are far away wait here.
    pub(super) image_gate: Gate,
    /// The number of callers that wait for such an image.
    pub(super) fetching: Arc<AtomicUsize>,
    /// Images that spawns hold.
    pub(super) held: Arc<AtomicUsize>,
    /// Boxes whose destroy never returns.
    pub(super) stuck: Mutex<BTreeSet<SandboxId>>,
    /// How many destroys fail from now on.
    pub(super) destroys_fail: AtomicUsize,
    pub(super) destroys_tried: AtomicUsize,
    pub(super) create_fails: AtomicBool,
    pub(super) list_fails: AtomicBool,
    /// Whether the backend cannot be reached at all.
    pub(super) away: AtomicBool,
    pub(super) healthy: AtomicBool,
    pub(super) checks: AtomicUsize,
    /// Commands that are running.
    pub(super) running: Arc<AtomicUsize>,
    /// Whether boxes can have a network.
    pub(super) networks: AtomicBool,
    /// What boxes with a network may reach.
    pub(super) egress: Mutex<BTreeMap<SandboxId, Egress>>,
    pub(super) notices: Notices,
    /// What its boxes end of.
    pub(super) cause_of_end: Mutex<Option<&'static str>>,
    /// Called at each step inside create and destroy.
    pub(super) step: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fake").finish_non_exhaustive()
    }
}

impl Fake {
    pub(super) fn new() -> Arc<Self> {
        Self::named("fake", &[Isolation::Container])
    }

    /// One of this name that gives these levels, the usual one first.
    pub(super) fn named(name: &'static str, isolations: &[Isolation]) -> Arc<Self> {
        Arc::new(Self {
            name,
            isolations: isolations.to_vec(),
            boxes: Mutex::default(),
            specs: Mutex::default(),
            create_gate: Gate::open_gate(),
            list_gate: Gate::open_gate(),
            image_gate: Gate::open_gate(),
            fetching: Arc::default(),
            held: Arc::default(),
            stuck: Mutex::default(),
            destroys_fail: AtomicUsize::new(0),
            destroys_tried: AtomicUsize::new(0),
            create_fails: AtomicBool::new(false),
            list_fails: AtomicBool::new(false),
            away: AtomicBool::new(false),
            healthy: AtomicBool::new(true),
            checks: AtomicUsize::new(0),
            running: Arc::default(),
            networks: AtomicBool::new(false),
            egress: Mutex::default(),
            notices: Notices::default(),
            cause_of_end: Mutex::default(),
            step: Mutex::default(),
        })
    }

    /// The boxes there are, half-made ones included.
    pub(super) fn ids(&self) -> BTreeSet<SandboxId> {
        self.lock().keys().cloned().collect()
    }

    /// Puts a box there that nobody asked for.
    pub(super) fn plant(&self, id: &SandboxId, state: BoxState) {
        let found = FakeBox {
            state,
            ended: CancellationToken::new(),
            moving: watch::Sender::new(state != BoxState::Paused),
        };
        self.lock().insert(id.clone(), found);
    }

    /// Ends a box's workload; what is left stays.
    pub(super) fn kill(&self, id: &SandboxId) {
        if let Some(found) = self.lock().get_mut(id) {
            found.state = BoxState::Dead;
            found.ended.cancel();
        }
    }

    /// Stops what runs in a box or lets it go on, without a word.
    pub(super) fn set_moving(&self, id: &SandboxId, moving: bool) {
        if let Some(found) = self.lock().get_mut(id) {
            found.state = if moving {
                BoxState::Running
            } else {
                BoxState::Paused
            };
            found.moving.send_replace(moving);
        }
    }

    /// The backend goes away, or comes back.
    pub(super) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
        self.healthy.store(!away, Ordering::SeqCst);
    }

    fn reachable(&self) -> Result<(), ProviderError> {
        if self.away.load(Ordering::SeqCst) {
            let message = "the backend does not answer".to_owned();
            return Err(ProviderError::Unavailable(message));
        }
        Ok(())
    }

    /// Takes a box away without its watcher noticing.
    pub(super) fn vanish(&self, id: &SandboxId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SandboxId, FakeBox>> {
        self.boxes.lock().unwrap()
    }

    async fn step(&self) {
        if let Some(step) = &*self.step.lock().unwrap() {
            step();
        }
        tokio::task::yield_now().await;
    }

    fn ops(&self, found: &FakeBox) -> Arc<dyn SandboxOps> {
        Arc::new(FakeOps {
            ended: found.ended.clone(),
            moving: found.moving.subscribe(),
            running: Arc::clone(&self.running),
        })
    }
}

/// One more, for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counter))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn broken(step: &'static str) -> ProviderError {
    ProviderError::backend(step, "it is broken", "the cause of it")
}

impl ProviderInfo for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn isolation(&self) -> Isolation {
        self.isolations[0]
    }

    fn isolations(&self) -> Vec<Isolation> {
        self.isolations.clone()
    }

    fn capabilities(&self) -> Vec<Capability> {
        let mut all = vec![
            Capability::NetworkNone,
            Capability::Exec,
            Capability::DiskLimit,
        ];
        if self.networks.load(Ordering::SeqCst) {
            all.extend([Capability::NetworkBridge, Capability::EgressDomains]);
        }
        all
    }

    fn default_image(&self) -> &str {
        "plain"
    }

    fn default_network(&self) -> NetworkMode {
        NetworkMode::None
    }

    fn degradations(&self) -> Vec<String> {
        Vec::new()
    }
}

#[async_trait]
impl Provider for Fake {
    async fn health(&self) -> Health {
        self.checks.fetch_add(1, Ordering::SeqCst);
        let healthy = self.healthy.load(Ordering::SeqCst);
        Health {
            healthy,
            error: (!healthy).then(|| "it is down".to_owned()),
            latency: Duration::from_millis(2),
        }
    }

    fn images(&self) -> Option<Arc<dyn ImageOps>> {
        None
    }

    fn networks(&self) -> Option<&dyn Networks> {
        Some(self)
    }

    async fn close(&self) {}
}

#[async_trait]
impl Boxes for Fake {
    async fn create(&self, spec: &BoxSpec) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        self.reachable()?;
        self.specs.lock().unwrap().push(spec.clone());
        self.step().await;
        self.plant(&spec.id, BoxState::Partial);
        self.step().await;
        self.create_gate.pass().await;
        if self.create_fails.load(Ordering::SeqCst) {
            self.vanish(&spec.id);
            return Err(broken("make the box"));
        }
        self.plant(&spec.id, BoxState::Running);
        if let NetworkMode::Bridge(egress) = &spec.network {
            let mut all = self.egress.lock().unwrap();
            all.insert(spec.id.clone(), egress.clone());
        }
        self.step().await;
        self.open(&spec.id).await
    }

    async fn open(&self, id: &SandboxId) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        self.reachable()?;
        match self.lock().get(id) {
            Some(found) => Ok(self.ops(found)),
            None => Err(ProviderError::NotFound(format!("no box {id}"))),
        }
    }

    async fn list(&self) -> Result<Vec<BoxInfo>, ProviderError> {
        self.reachable()?;
        if self.list_fails.load(Ordering::SeqCst) {
            return Err(broken("list the boxes"));
        }
        let boxes = self
            .lock()
            .iter()
            .map(|(id, found)| BoxInfo {
                id: id.clone(),
                state: found.state,
            })
            .collect();
        // After the look: what is made meanwhile is not in the answer.
        self.list_gate.pass().await;
        Ok(boxes)
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), ProviderError> {
        self.destroys_tried.fetch_add(1, Ordering::SeqCst);
        self.reachable()?;
        self.step().await;
        if self.stuck.lock().unwrap().contains(id) {
            std::future::pending::<()>().await;
        }
        let fail = |left: usize| left.checked_sub(1);
        let failing = self
            .destroys_fail
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fail);
        if failing.is_ok() {
            return Err(broken("remove the box"));
        }
        if let Some(found) = self.lock().get_mut(id) {
            found.state = BoxState::Dead;
            found.ended.cancel();
        }
        self.step().await;
        self.vanish(id);
        self.step().await;
        Ok(())
    }
}

#[async_trait]
impl BoxMonitor for Fake {
    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats, ProviderError> {
        self.open(id).await?;
        Ok(SandboxStats {
            supported: true,
            pids: 3,
            ..SandboxStats::default()
        })
    }

    async fn wait_exit(&self, id: &SandboxId) {
        let ended = self.lock().get(id).map(|found| found.ended.clone());
        if let Some(ended) = ended {
            ended.cancelled().await;
        }
    }

    async fn cause_of_end(&self, _: &SandboxId) -> Option<&'static str> {
        *self.cause_of_end.lock().unwrap()
    }

    fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        self.notices.listen()
    }
}

#[async_trait]
impl ImageSource for Fake {
    async fn check_image(&self, image: &str) -> Result<(), ProviderError> {
        if image == "absent" {
            return Err(ProviderError::NotFound(format!(
                "image {image:?} not found"
            )));
        }
        Ok(())
    }

    async fn prepare_image(&self, image: &str) -> Result<ImageHold, ProviderError> {
        if image.starts_with("far") {
            let _waiting = Counted::new(&self.fetching);
            self.image_gate.pass().await;
        }
        if image == "far-and-broken" {
            return Err(broken("pull the image"));
        }
        Ok(ImageHold::new(Counted::new(&self.held)))
    }
}

#[async_trait]
impl Networks for Fake {
    async fn network(&self, id: &SandboxId) -> Result<NetworkMode, ProviderError> {
        self.open(id).await?;
        let egress = self.egress.lock().unwrap().get(id).cloned();
        Ok(egress.map_or(NetworkMode::None, NetworkMode::Bridge))
    }

    async fn set_egress(&self, id: &SandboxId, egress: &Egress) -> Result<(), ProviderError> {
        self.open(id).await?;
        match self.egress.lock().unwrap().get_mut(id) {
            Some(place) => *place = egress.clone(),
            None => return Err(ProviderError::Unsupported("it has no network".to_owned())),
        }
        Ok(())
    }
}
