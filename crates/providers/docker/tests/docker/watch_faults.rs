//! Faults of the stream of events: it breaks, stops, or its events come in parts.

use std::sync::Arc;

use stacyvm_docker::DockerProvider;
use stacyvm_provider::Notice;
use stacyvm_provider::prelude::*;
use stacyvm_types::SandboxId;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

use crate::fake_engine::FakeEngine;
use crate::support::{eventually, soon};

struct Rig {
    engine: FakeEngine,
    provider: Arc<DockerProvider>,
    notices: Receiver<Notice>,
}

impl Rig {
    /// A provider over an engine with these sandboxes, whose events are followed already.
    async fn with(sandboxes: &[u32]) -> Self {
        let engine = FakeEngine::start();
        for number in sandboxes {
            engine.set(&id(*number), "running");
        }
        let provider = Arc::new(engine.provider());
        let notices = provider.notices().unwrap();
        let rig = Self {
            engine,
            provider,
            notices,
        };
        rig.followed(1).await;
        rig
    }

    /// Waits until the events were requested so often, and the containers listed as often.
    async fn followed(&self, times: usize) {
        eventually("the events are followed", async || {
            let (followed, listed) = self.engine.asked();
            followed >= times && listed >= times
        })
        .await;
    }

    fn wait_exit(&self, number: u32) -> JoinHandle<()> {
        let provider = Arc::clone(&self.provider);
        tokio::spawn(async move { provider.wait_exit(&id(number)).await })
    }

    async fn heard(&mut self) -> Notice {
        soon("a notice", self.notices.recv()).await.unwrap()
    }
}

fn id(number: u32) -> SandboxId {
    SandboxId::from_u32(number)
}

fn paused(number: u32) -> Notice {
    Notice::Paused { id: id(number) }
}

fn resumed(number: u32) -> Notice {
    Notice::Resumed { id: id(number) }
}

#[tokio::test]
async fn what_happened_while_the_stream_was_cut_is_found() {
    let mut rig = Rig::with(&[1, 2, 3, 4]).await;
    let waits: Vec<_> = (1..=4).map(|number| rig.wait_exit(number)).collect();
    rig.engine.say(&FakeEngine::event(&id(4), "pause", &[]));
    assert_eq!(rig.heard().await, paused(4));
    // No event reports any of this.
    rig.engine.set(&id(1), "gone");
    rig.engine.set(&id(2), "exited");
    rig.engine.set(&id(3), "paused");
    rig.engine.set(&id(4), "running");
    rig.engine.cut();
    let heard = [rig.heard().await, rig.heard().await];
    assert_eq!(heard, [paused(3), resumed(4)]);
    let mut waits = waits.into_iter();
    for _ in 0..2 {
        soon("it has ended", waits.next().unwrap()).await.unwrap();
    }
    // The running sandboxes are still followed.
    let alive: Vec<_> = waits.collect();
    assert!(alive.iter().all(|wait| !wait.is_finished()));
    rig.engine.set(&id(3), "exited");
    rig.engine
        .say(&FakeEngine::event(&id(3), "die", &[("exitCode", "1")]));
    let mut alive = alive.into_iter();
    soon("it has ended", alive.next().unwrap()).await.unwrap();
    assert!(!alive.next().unwrap().is_finished());
}

#[tokio::test]
async fn half_an_event_is_none_and_pieces_are_one() {
    let mut rig = Rig::with(&[1, 2]).await;
    let event = FakeEngine::event(&id(1), "pause", &[]);
    let (first, second) = event.split_at(event.len() / 2);
    rig.engine.say(first);
    rig.engine.cut();
    rig.followed(2).await;
    // If the half event, or its rest, counted, this one would come second.
    let event = FakeEngine::event(&id(2), "pause", &[]);
    for byte in event.chars() {
        rig.engine.say(&byte.to_string());
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.heard().await, paused(2));
    rig.engine.say(second);
    rig.followed(3).await;
    rig.engine.say(&FakeEngine::event(&id(1), "pause", &[]));
    // The listing has found the second sandbox running, as the engine says.
    let heard = [rig.heard().await, rig.heard().await];
    assert_eq!(heard, [resumed(2), paused(1)]);
}

#[tokio::test]
async fn an_engine_that_is_away_ends_nothing_and_is_followed_when_it_is_back() {
    let mut rig = Rig::with(&[1, 2]).await;
    let (first, second) = (rig.wait_exit(1), rig.wait_exit(2));
    rig.engine.go_away().await;
    // This wait begins while the engine is away, which does not end it.
    let asked = rig.wait_exit(1);
    eventually("it is noticed", async || rig.provider.list().await.is_err()).await;
    assert!(!first.is_finished() && !second.is_finished() && !asked.is_finished());
    rig.engine.set(&id(1), "gone");
    rig.engine.set(&id(2), "paused");
    rig.engine.come_back();
    assert_eq!(rig.heard().await, paused(2));
    soon("it has ended", first).await.unwrap();
    soon("it has ended", asked).await.unwrap();
    assert!(!second.is_finished());
    rig.provider.close().await;
}

#[tokio::test]
async fn want_of_memory_is_told_and_is_the_cause_of_an_end_that_follows() {
    let mut rig = Rig::with(&[1, 2]).await;
    rig.engine.say(&FakeEngine::event(&id(1), "oom", &[]));
    let wanted = Notice::LimitReached {
        id: id(1),
        limit: "memory",
    };
    assert_eq!(rig.heard().await, wanted);
    for number in [1, 2] {
        let wait = rig.wait_exit(number);
        rig.engine.set(&id(number), "exited");
        let died = FakeEngine::event(&id(number), "die", &[("exitCode", "137")]);
        rig.engine.say(&died);
        soon("it has ended", wait).await.unwrap();
    }
    // The second end may have been inspected before its event came.
    rig.engine.say(&FakeEngine::event(&id(1), "pause", &[]));
    rig.heard().await;
    assert_eq!(rig.provider.cause_of_end(&id(1)).await, Some("memory"));
    assert_eq!(rig.provider.cause_of_end(&id(2)).await, None);
}

#[tokio::test]
async fn a_container_that_becomes_anothers_is_gone_for_who_waits() {
    let rig = Rig::with(&[1]).await;
    let wait = rig.wait_exit(1);
    rig.engine.set(&id(1), "gone");
    let name = format!("stacyvm-fake-{}", id(1));
    let renamed = FakeEngine::event(&id(2), "rename", &[("oldName", &name)]);
    rig.engine.say(&renamed);
    soon("it is gone", wait).await.unwrap();
    soon("there is none", rig.wait_exit(9)).await.unwrap();
}
