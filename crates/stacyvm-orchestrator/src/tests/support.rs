//! A running orchestrator with everything around it that a test wants to reach.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stacyvm_provider::Provider;
use stacyvm_provider::prelude::*;
use stacyvm_store::Store;
use stacyvm_types::{ErrorCode, ExecRequest, Sandbox, SandboxId, SpawnRequest, Timestamp};

use crate::clock::Clock;
use crate::tests::fake::Fake;
use crate::{Caller, Error, ListFilter, Orchestrator, Settings};

/// Wall-clock time that follows tokio's clock and can jump.
#[derive(Debug)]
pub(super) struct TestClock {
    base: Timestamp,
    started: tokio::time::Instant,
    jumped_micros: AtomicI64,
}

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            base: Timestamp::from_unix_micros(1_700_000_000_000_000),
            started: tokio::time::Instant::now(),
            jumped_micros: AtomicI64::new(0),
        })
    }

    /// Sets the wall clock forward, as an operator or a waking machine does.
    pub(super) fn jump(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).unwrap();
        self.jumped_micros.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.started.elapsed().as_micros()).unwrap();
        let micros = elapsed + self.jumped_micros.load(Ordering::SeqCst);
        Timestamp::from_unix_micros(self.base.unix_micros() + micros)
    }
}

#[derive(Debug)]
pub(super) struct Rig {
    pub(super) fake: Arc<Fake>,
    /// Further providers.
    others: Vec<Arc<Fake>>,
    pub(super) store: Store,
    pub(super) clock: Arc<TestClock>,
    pub(super) orchestrator: Orchestrator,
    pub(super) caller: Caller,
    settings: Settings,
    /// While one blocking task waits, paused time stands still instead of running ahead to the
    /// next timer whenever every task waits for the store's threads.
    _frozen: std::sync::mpsc::Sender<()>,
}

pub(super) fn settings() -> Settings {
    Settings {
        default_provider: "fake".to_owned(),
        ..Settings::default()
    }
}

impl Rig {
    pub(super) async fn new() -> Self {
        Self::with(settings()).await
    }

    pub(super) async fn with(settings: Settings) -> Self {
        Self::drawing(settings, rand::random::<u32>).await
    }

    pub(super) async fn drawing(
        settings: Settings,
        draw: impl Fn() -> u32 + Send + Sync + 'static,
    ) -> Self {
        let store = Store::in_memory().unwrap();
        let fakes = vec![Fake::new()];
        Self::over(settings, fakes, store, TestClock::new(), Box::new(draw)).await
    }

    /// With these providers, of which the first one is the default.
    pub(super) async fn of(fakes: Vec<Arc<Fake>>) -> Self {
        let settings = Settings {
            default_provider: fakes[0].name().to_owned(),
            ..settings()
        };
        let store = Store::in_memory().unwrap();
        let draw = Box::new(rand::random::<u32>);
        Self::over(settings, fakes, store, TestClock::new(), draw).await
    }

    async fn over(
        settings: Settings,
        mut fakes: Vec<Arc<Fake>>,
        store: Store,
        clock: Arc<TestClock>,
        draw: Box<dyn Fn() -> u32 + Send + Sync>,
    ) -> Self {
        let (frozen, thaw) = std::sync::mpsc::channel::<()>();
        // Ends when the rig is dropped.
        tokio::task::spawn_blocking(move || thaw.recv());
        let provider = |fake: &Arc<Fake>| Arc::clone(fake) as Arc<dyn Provider>;
        let providers: Vec<_> = fakes.iter().map(provider).collect();
        let orchestrator = Orchestrator::start_with(
            settings.clone(),
            store.clone(),
            providers,
            Arc::clone(&clock) as _,
            draw,
        );
        Self {
            orchestrator: orchestrator.await.unwrap(),
            fake: fakes.remove(0),
            others: fakes,
            store,
            clock,
            caller: Caller::default(),
            settings,
            _frozen: frozen,
        }
    }

    /// As if the process had died here: every task is left where it stands, and another server
    /// starts over the same store and backend.
    pub(super) async fn restart(self) -> Self {
        let state = &self.orchestrator.state;
        state.lifetime.stop.cancel();
        state.lifetime.abort.cancel();
        state.lifetime.tasks.close();
        state.lifetime.tasks.wait().await;
        let (mut fakes, store, clock) = (self.others, self.store, self.clock);
        fakes.insert(0, self.fake);
        Self::over(
            self.settings,
            fakes,
            store,
            clock,
            Box::new(rand::random::<u32>),
        )
        .await
    }

    pub(super) async fn try_spawn(&self, json: &str) -> Result<Sandbox, Error> {
        self.orchestrator
            .spawn(&self.caller, request(json), None)
            .await
    }

    pub(super) async fn spawn(&self, json: &str) -> Sandbox {
        self.try_spawn(json).await.unwrap()
    }

    pub(super) async fn list(&self) -> Vec<Sandbox> {
        let filter = ListFilter::default();
        self.orchestrator.list(&self.caller, filter).await.unwrap()
    }

    pub(super) async fn get(&self, id: &SandboxId) -> Result<Sandbox, Error> {
        self.orchestrator.get(&self.caller, id).await
    }

    pub(super) async fn destroy(&self, id: &SandboxId) -> Result<(), Error> {
        self.orchestrator.destroy(&self.caller, id).await
    }
}

pub(super) fn request(json: &str) -> SpawnRequest {
    serde_json::from_str(json).unwrap()
}

/// A command in argv mode.
pub(super) fn argv(argv: &[&str]) -> ExecRequest {
    ExecRequest {
        command: argv[0].to_owned(),
        args: Some(argv[1..].iter().map(|&text| text.to_owned()).collect()),
        mode: Some("argv".to_owned()),
        ..ExecRequest::default()
    }
}

pub(super) fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorCode {
    result.unwrap_err().code()
}

/// Lets everything run until `condition` holds; fails after a real while. Paused time stands.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        breathe().await;
    }
}

/// Lets the other tasks and the store's threads come to rest, by going through both a few times.
pub(super) async fn settle(rig: &Rig) {
    for _ in 0..20 {
        // A closed store is as much at rest.
        let _ = rig.store.total_sandboxes().await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

/// Time, and what depends on it, goes on by `by`.
pub(super) async fn pass(rig: &Rig, by: Duration) {
    settle(rig).await;
    tokio::time::advance(by).await;
    settle(rig).await;
}

async fn breathe() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    std::thread::yield_now();
}

/// Draws these numbers, the last one again and again.
pub(super) fn drawn(numbers: &[u32]) -> impl Fn() -> u32 + Send + Sync + 'static {
    let left = Mutex::new(numbers.to_vec());
    move || {
        let mut left = left.lock().unwrap();
        if left.len() > 1 {
            left.remove(0)
        } else {
            left[0]
        }
    }
}
