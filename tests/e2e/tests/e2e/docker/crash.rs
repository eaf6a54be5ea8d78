//! The server, and the engine below it, killed at random moments: no container, volume, network or row
//! is left that the server does not know of, and living sandboxes can be used.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::crash::{Victim, kill, strike_again_and_again};
use crate::harness::docker::{Engine, need_docker};
use crate::harness::engine::OwnEngine;
use crate::harness::{SOON, Server, eventually};

/// What an engine that only one server uses holds of sandboxes that the server does not know of.
fn unknown(engine: &Engine, known: &BTreeSet<String>) -> Vec<String> {
    engine
        .things("")
        .into_iter()
        .filter(|thing| !known.iter().any(|id| thing.contains(id)))
        .filter(|thing| {
            !["bridge", "host", "none"]
                .iter()
                .any(|own| *thing == format!("network {own}"))
        })
        .collect()
}

/// Strikes the server.
struct ServerOf(OwnEngine);

impl Victim for ServerOf {
    const ROUNDS: u64 = 25;
    const LATEST: Duration = Duration::from_millis(600);
    const MAY_REFUSE: bool = false;

    fn strike(&mut self, server: &Server) {
        kill(server);
    }

    fn mend(&mut self, server: &mut Server) {
        server.reap();
        server.resume();
    }

    fn orphans(&self, _: &Server, known: &BTreeSet<String>) -> Vec<String> {
        unknown(self.0.engine(), known)
    }
}

/// Strikes the engine; the server goes on.
struct EngineItself(OwnEngine);

impl Victim for EngineItself {
    const ROUNDS: u64 = 12;
    const LATEST: Duration = Duration::from_millis(600);
    const MAY_REFUSE: bool = true;

    fn strike(&mut self, _: &Server) {
        self.0.kill();
    }

    fn mend(&mut self, server: &mut Server) {
        self.0.resume();
        eventually("the server has found the engine again", SOON, || {
            let provider = server.request("GET", "/providers/docker", None);
            provider.expect(200)["healthy"] == true
        });
    }

    fn orphans(&self, _: &Server, known: &BTreeSet<String>) -> Vec<String> {
        unknown(self.0.engine(), known)
    }
}

#[track_caller]
fn destroy_all(server: &Server, engine: &Engine) {
    for id in server.list() {
        server
            .request("DELETE", &format!("/sandboxes/{id}"), None)
            .expect(200);
    }
    assert_eq!(unknown(engine, &BTreeSet::new()), Vec::<String>::new());
}

#[test]
fn a_server_killed_at_random_moments_leaves_nothing_and_loses_nothing() {
    let shared = need_docker!();
    let mut victim = ServerOf(OwnEngine::start(&shared));
    let mut server = victim.0.engine().server(&[]);
    strike_again_and_again(&mut server, &mut victim);
    destroy_all(&server, victim.0.engine());
}

#[test]
fn an_engine_killed_at_random_moments_leaves_nothing_and_loses_nothing() {
    let shared = need_docker!();
    let mut victim = EngineItself(OwnEngine::start(&shared));
    let mut server = victim.0.engine().server(&[]);
    strike_again_and_again(&mut server, &mut victim);
    destroy_all(&server, victim.0.engine());
}
