//! The process dies at every point that can be told apart; the next one must find everything.
//!
//! Each life of the server is a runtime of its own. Dropping it drops every task at the await
//! it stands at, as a killed process would; store and backend live on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stacyvm_provider::Provider;
use stacyvm_store::Store;
use stacyvm_types::{SandboxId, SandboxState, SpawnRequest, Timestamp};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use crate::tests::fake::Fake;
use crate::tests::support::{argv, eventually, settings};
use crate::{Caller, ListFilter, Orchestrator};

/// What clients were told.
#[derive(Debug, Default)]
struct Heard {
    /// Those that got their answer, with the expiry they were told last.
    spawned: BTreeMap<SandboxId, Timestamp>,
    /// Those for which a destroy was asked, answered or not.
    doomed: BTreeSet<SandboxId>,
    /// Those for which a destroy was answered.
    destroyed: BTreeSet<SandboxId>,
    /// Those for which an extension was asked and not answered: either expiry is right.
    uncertain: BTreeSet<SandboxId>,
}

struct World {
    fake: Arc<Fake>,
    store: Store,
    heard: Arc<Mutex<Heard>>,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

impl World {
    fn new() -> Self {
        Self {
            fake: Fake::new(),
            store: Store::in_memory().unwrap(),
            heard: Arc::default(),
        }
    }

    async fn start(&self) -> Orchestrator {
        let providers: Vec<Arc<dyn Provider>> = vec![Arc::clone(&self.fake) as _];
        let started = Orchestrator::start(settings(), self.store.clone(), providers);
        started.await.unwrap()
    }

    /// A few clients that spawn, extend, run and destroy until their server dies.
    async fn clients(&self) {
        let orchestrator = self.start().await;
        let clients = (0..4).map(|client| {
            let (orchestrator, heard) = (orchestrator.clone(), Arc::clone(&self.heard));
            tokio::spawn(async move {
                for round in 0..1000 {
                    one_round(&orchestrator, &heard, (client + round) % 4).await;
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        futures_util::future::join_all(clients).await;
    }

    /// Starts once more and checks that nothing is left over and nothing is lost.
    async fn check(&self, deaths: usize, when: &str) {
        // What the dead server's store had in its queue counts as written or not; it must only
        // not be written after the next one has looked.
        self.store
            .prune_idempotency(Timestamp::now())
            .await
            .unwrap();
        let orchestrator = self.start().await;
        let caller = Caller::default();
        let state = &orchestrator.state;
        eventually("what was half done is finished", || {
            let left = state.registry.snapshot();
            let boxes = self.fake.ids();
            left.iter().all(|entry| entry.state().is_some())
                && left.len() == boxes.len()
                && left.iter().all(|entry| boxes.contains(&entry.facts.id))
        })
        .await;
        let listed = orchestrator.list(&caller, ListFilter::default());
        let listed: BTreeMap<_, _> = listed
            .await
            .unwrap()
            .into_iter()
            .map(|sandbox| (sandbox.id.clone(), sandbox))
            .collect();
        let stored = self.store.list_active().await.unwrap();
        let stored: BTreeSet<_> = stored.into_iter().map(|record| record.id).collect();
        assert_eq!(stored, listed.keys().cloned().collect(), "{when}: rows");
        let (spawned, doomed, destroyed, uncertain) = {
            let heard = self.heard.lock().unwrap();
            (
                heard.spawned.clone(),
                heard.doomed.clone(),
                heard.destroyed.clone(),
                heard.uncertain.clone(),
            )
        };
        for (id, expires_at) in &spawned {
            if doomed.contains(id) {
                continue;
            }
            let found = listed
                .get(id)
                .unwrap_or_else(|| panic!("{when}: lost {id}"));
            assert_eq!(found.state, SandboxState::Running, "{when}: {id}");
            if !uncertain.contains(id) {
                assert_eq!(found.expires_at, *expires_at, "{when}: {id}");
            }
            let run = orchestrator.exec_captured(&caller, id, argv(&["echo", "x"]));
            assert_eq!(run.await.unwrap().stdout, "x", "{when}: {id}");
        }
        for id in destroyed {
            assert!(!listed.contains_key(&id), "{when}: {id} came back");
        }
        // A sandbox whose answer was on its way may live: one a client and death at most.
        let strangers = listed
            .keys()
            .filter(|id| !spawned.contains_key(*id))
            .count();
        assert!(strangers <= 4 * deaths, "{when}: {strangers} are nobody's");
    }
}

async fn one_round(orchestrator: &Orchestrator, heard: &Mutex<Heard>, kind: usize) {
    let caller = Caller::default();
    let request = SpawnRequest::default();
    let sandbox = orchestrator.spawn(&caller, request, None).await.unwrap();
    let id = sandbox.id.clone();
    heard
        .lock()
        .unwrap()
        .spawned
        .insert(id.clone(), sandbox.expires_at);
    if kind == 1 {
        heard.lock().unwrap().uncertain.insert(id.clone());
        let extended = orchestrator.extend(&caller, &id, "2h").await;
        let mut heard = heard.lock().unwrap();
        heard
            .spawned
            .insert(id.clone(), extended.unwrap().expires_at);
        heard.uncertain.remove(&id);
    }
    if kind == 2 {
        let run = orchestrator.exec_captured(&caller, &id, argv(&["echo", "x"]));
        run.await.unwrap();
    }
    if kind == 3 {
        heard.lock().unwrap().doomed.insert(id.clone());
        orchestrator.destroy(&caller, &id).await.unwrap();
        heard.lock().unwrap().destroyed.insert(id);
    }
}

#[test]
fn a_death_at_any_step_of_the_backend_loses_and_leaves_nothing() {
    for fatal in 1..40 {
        let world = World::new();
        let steps = AtomicUsize::new(0);
        let dead = Arc::new(Notify::new());
        let die = Arc::clone(&dead);
        *world.fake.step.lock().unwrap() = Some(Box::new(move || {
            if steps.fetch_add(1, Ordering::SeqCst) + 1 == fatal {
                die.notify_one();
            }
        }));
        let life = runtime();
        life.block_on(async {
            tokio::select! {
                biased;
                () = dead.notified() => {}
                () = world.clients() => panic!("the clients ended before step {fatal}"),
            }
        });
        drop(life);
        *world.fake.step.lock().unwrap() = None;
        runtime().block_on(world.check(1, &format!("death at step {fatal}")));
    }
}

#[test]
fn deaths_at_random_moments_one_after_another_lose_and_leave_nothing() {
    let world = World::new();
    // Sixty, and on a machine that is too slow to get anything done in so short lives some more.
    let done = || {
        let heard = world.heard.lock().unwrap();
        !heard.destroyed.is_empty() && heard.spawned.len() > 60
    };
    let mut death = 0;
    while death < 60 || (death < 2000 && !done()) {
        death += 1;
        let life = runtime();
        life.block_on(async {
            let lifetime = Duration::from_micros(rand::random_range(0..6000));
            let _ = tokio::time::timeout(lifetime, world.clients()).await;
        });
        drop(life);
        runtime().block_on(world.check(death, &format!("death {death}")));
    }
    assert!(done(), "{death} deaths hit nothing");
}
