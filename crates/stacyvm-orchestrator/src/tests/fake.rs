//! A backend in memory, for the faults that a real one does not show when asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use stacyvm_provider::ops::{
    ByteReceiver, ExecControl, ExecEvent, ExecExit, ExecSession, ExecSpec, FileRead, OpError,
    ReadRange, UsageStats, WriteOptions,
};
use stacyvm_provider::{
    BoxInfo, BoxSpec, BoxState, Capability, Egress, Health, ImageHold, NetworkMode, Notice,
    Notices, Provider, ProviderError, SandboxOps,
};
use stacyvm_types::{
    ExitReason, FileInfo, FileMode, Isolation, OutputStream, SandboxId, SandboxStats,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

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
}

pub(super) struct Fake {
    boxes: Mutex<BTreeMap<SandboxId, FakeBox>>,
    pub(super) specs: Mutex<Vec<BoxSpec>>,
    pub(super) create_gate: Gate,
    pub(super) list_gate: Gate,
    /// Images that are far away wait here.
    pub(super) image_gate: Gate,
    /// Who waits for them.
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
    pub(super) healthy: AtomicBool,
    pub(super) checks: AtomicUsize,
    /// Commands that are running.
    pub(super) running: Arc<AtomicUsize>,
    /// Whether boxes can have a network.
    pub(super) networks: AtomicBool,
    /// What boxes with a network may reach.
    pub(super) egress: Mutex<BTreeMap<SandboxId, Egress>>,
    pub(super) notices: Notices,
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
        Arc::new(Self {
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
            healthy: AtomicBool::new(true),
            checks: AtomicUsize::new(0),
            running: Arc::default(),
            networks: AtomicBool::new(false),
            egress: Mutex::default(),
            notices: Notices::default(),
            step: Mutex::default(),
        })
    }

    /// The boxes there are, half-made ones included.
    pub(super) fn ids(&self) -> BTreeSet<SandboxId> {
        self.lock().keys().cloned().collect()
    }

    /// Puts a box there that nobody asked for.
    pub(super) fn plant(&self, id: &SandboxId, state: BoxState) {
        let ended = CancellationToken::new();
        self.lock().insert(id.clone(), FakeBox { state, ended });
    }

    /// Ends a box's workload; what is left stays.
    pub(super) fn kill(&self, id: &SandboxId) {
        if let Some(found) = self.lock().get_mut(id) {
            found.state = BoxState::Dead;
            found.ended.cancel();
        }
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

    fn ops(&self, ended: CancellationToken) -> Arc<dyn SandboxOps> {
        Arc::new(FakeOps {
            ended,
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

#[async_trait]
impl Provider for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn isolation(&self) -> Isolation {
        Isolation::Container
    }

    fn capabilities(&self) -> Vec<Capability> {
        let mut all = vec![Capability::NetworkNone, Capability::Exec];
        if self.networks.load(Ordering::SeqCst) {
            all.extend([Capability::NetworkBridge, Capability::EgressDomains]);
        }
        all
    }

    fn default_image(&self) -> &str {
        "plain"
    }

    async fn health(&self) -> Health {
        self.checks.fetch_add(1, Ordering::SeqCst);
        let healthy = self.healthy.load(Ordering::SeqCst);
        Health {
            healthy,
            error: (!healthy).then(|| "it is down".to_owned()),
            latency: Duration::from_millis(2),
        }
    }

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

    async fn create(&self, spec: &BoxSpec) -> Result<Arc<dyn SandboxOps>, ProviderError> {
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
        match self.lock().get(id) {
            Some(found) => Ok(self.ops(found.ended.clone())),
            None => Err(ProviderError::NotFound(format!("no box {id}"))),
        }
    }

    async fn list(&self) -> Result<Vec<BoxInfo>, ProviderError> {
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

    fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        self.notices.listen()
    }

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
}

/// A box's inside, which understands a few programs in argv mode.
#[derive(Debug)]
struct FakeOps {
    ended: CancellationToken,
    running: Arc<AtomicUsize>,
}

/// Counts a command for as long as it lives.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn exit(exit_code: i32, reason: ExitReason) -> ExecEvent {
    ExecEvent::Exit(ExecExit {
        exit_code,
        signal: (exit_code > 128).then(|| exit_code - 128),
        reason,
        duration: Duration::from_millis(1500),
    })
}

impl FakeOps {
    async fn program(
        spec: ExecSpec,
        ended: CancellationToken,
        events: mpsc::Sender<ExecEvent>,
        mut control: mpsc::Receiver<ExecControl>,
    ) {
        let argument = spec.argv.get(1).cloned().unwrap_or_default();
        let out = |bytes: Bytes| ExecEvent::Output(OutputStream::Stdout, bytes);
        let last = match spec.argv[0].as_str() {
            "echo" => {
                let _ = events.send(out(Bytes::from(argument))).await;
                exit(0, ExitReason::Exit)
            }
            "false" => {
                let noise = Bytes::from_static(b"no\xFF");
                let noise = ExecEvent::Output(OutputStream::Stderr, noise);
                let _ = events.send(noise).await;
                exit(1, ExitReason::Exit)
            }
            "bomb" => exit(137, ExitReason::Oom),
            "flood" => {
                let piece = Bytes::from(vec![b'x'; 64 * 1024]);
                for _ in 0..argument.parse::<usize>().unwrap() {
                    if events.send(out(piece.clone())).await.is_err() {
                        return;
                    }
                }
                exit(0, ExitReason::Exit)
            }
            "cat" => {
                let mut count = 0;
                while let Some(ExecControl::Stdin(piece)) = control.recv().await {
                    count += piece.len();
                }
                let _ = events.send(out(Bytes::from(count.to_string()))).await;
                exit(0, ExitReason::Exit)
            }
            "vanish" => return,
            // Keeps its deadline and obeys, as an agent does.
            "sleep" => {
                let limit = spec.timeout.unwrap_or(Duration::from_secs(1_000_000));
                tokio::select! {
                    () = ended.cancelled() => return,
                    () = events.closed() => return,
                    () = tokio::time::sleep(limit) => exit(137, ExitReason::Timeout),
                    _ = control.recv() => exit(137, ExitReason::Signal),
                }
            }
            // Forgets its deadline, but can be killed.
            "late" => loop {
                if let Some(ExecControl::Kill) = control.recv().await {
                    break exit(137, ExitReason::Timeout);
                }
            },
            // Neither keeps its deadline nor obeys.
            "deaf" => {
                events.closed().await;
                return;
            }
            other => panic!("unknown program {other}"),
        };
        let _ = events.send(last).await;
    }
}

#[async_trait]
impl SandboxOps for FakeOps {
    async fn ping(&self) -> Result<(), OpError> {
        Ok(())
    }

    async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, OpError> {
        if self.ended.is_cancelled() {
            return Err(OpError::Gone("the box is dead".to_owned()));
        }
        if spec.workdir.as_deref() == Some("/missing") {
            return Err(OpError::Invalid(
                "workdir /missing does not exist".to_owned(),
            ));
        }
        let (sender, events) = mpsc::channel(4);
        let (control, receiver) = mpsc::channel(4);
        let running = Running::new(&self.running);
        let ended = self.ended.clone();
        tokio::spawn(async move {
            Self::program(spec, ended, sender, receiver).await;
            drop(running);
        });
        Ok(ExecSession {
            exec_id: 1,
            pid: 42,
            events,
            control,
        })
    }

    async fn stat(&self, path: &str) -> Result<FileInfo, OpError> {
        if path == "/hang" {
            std::future::pending::<()>().await;
        }
        Err(OpError::NotFound(format!("{path} does not exist")))
    }

    async fn list(&self, _path: &str, _depth: u32) -> Result<Vec<FileInfo>, OpError> {
        Ok(Vec::new())
    }

    async fn read(&self, path: &str, _range: ReadRange) -> Result<FileRead, OpError> {
        Err(OpError::NotFound(format!("{path} does not exist")))
    }

    async fn write(
        &self,
        _path: &str,
        _options: WriteOptions,
        _data: ByteReceiver,
    ) -> Result<(), OpError> {
        Ok(())
    }

    async fn mkdir(&self, _path: &str, _mode: FileMode) -> Result<(), OpError> {
        Ok(())
    }

    async fn rename(&self, _from: &str, _to: &str) -> Result<(), OpError> {
        Ok(())
    }

    async fn remove(&self, _path: &str, _recursive: bool) -> Result<(), OpError> {
        Ok(())
    }

    async fn chmod(&self, _path: &str, _mode: FileMode) -> Result<(), OpError> {
        Ok(())
    }

    async fn glob(&self, _pattern: &str) -> Result<Vec<String>, OpError> {
        Ok(Vec::new())
    }

    async fn archive_out(&self, _path: &str) -> Result<ByteReceiver, OpError> {
        Ok(mpsc::channel(1).1)
    }

    async fn archive_in(&self, _path: &str, _data: ByteReceiver) -> Result<(), OpError> {
        Ok(())
    }

    async fn logs(&self, lines: usize) -> Result<Vec<String>, OpError> {
        Ok((0..lines).map(|line| format!("line {line}")).collect())
    }

    async fn usage(&self) -> Result<UsageStats, OpError> {
        Ok(UsageStats::default())
    }

    async fn forward(
        &self,
        _port: u16,
        _inbound: mpsc::Receiver<Bytes>,
    ) -> Result<ByteReceiver, OpError> {
        Ok(mpsc::channel(1).1)
    }
}
