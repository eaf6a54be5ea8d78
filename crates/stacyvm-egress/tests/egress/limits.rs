//! Limits on the connections of one sandbox and of all.

use std::io::Write as _;
use std::net::TcpStream;

use stacyvm_egress::{Limits, Notice, Policy, Reason};
use stacyvm_types::SandboxId;

use crate::servers::{self, NameServer, read_head};
use crate::world::{SANDBOX_V6, SITE, SITE_V6, World, eventually, generous_limits};

/// Whether a connection is served: a refused one is closed.
fn is_served(stream: &mut TcpStream) -> bool {
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: site.example\r\n\r\n");
    asked.is_ok() && read_head(stream).is_some_and(|head| head.starts_with("HTTP/1.1 200"))
}

fn internet(world: &World) {
    servers::web(&world.internet, SITE, 80, "site");
    NameServer::start(&world.host, "127.0.0.53", &[("site.example", &[SITE])]);
}

#[test]
fn one_sandbox_does_not_take_the_places_of_others() {
    let limits = Limits {
        connections_per_sandbox: 8,
        ..generous_limits()
    };
    let Some(world) = World::with(limits) else {
        return;
    };
    internet(&world);
    let list = Policy::Domains(vec!["site.example".parse().unwrap()]);
    let first = crate::world::id();
    let second = SandboxId::from_u32(2);
    let set = |id: &SandboxId, address: &str| {
        let address = [address.parse().unwrap()];
        let set = world.egress().set(id, &address, &list);
        world.runtime.block_on(set).unwrap();
    };
    set(&first, crate::world::SANDBOX);
    set(&second, SANDBOX_V6);
    let mut held: Vec<TcpStream> = (0..8).map(|_| world.connect(SITE, 80)).collect();
    for stream in &mut held {
        assert!(is_served(stream));
    }
    for _ in 0..100 {
        // The refusal may come before connecting has returned.
        let stream = world.try_connect(SITE, 80);
        assert!(!stream.is_ok_and(|mut stream| is_served(&mut stream)));
    }
    assert!(matches!(
        world.any_notice(),
        Notice::Refused { reason: Reason::Limit, sandbox, .. } if sandbox == first
    ));
    let mut other = world.connect(SITE_V6, 80);
    assert!(is_served(&mut other), "the other has places of its own");
    // A connection that ends makes room for another.
    held.pop();
    eventually("there is a place again", || {
        let stream = world.try_connect(SITE, 80);
        stream.is_ok_and(|mut stream| is_served(&mut stream))
    });
}

#[test]
fn many_come_and_go_and_nothing_stays() {
    let limits = Limits {
        connections: 64,
        connections_per_sandbox: 64,
        ..generous_limits()
    };
    let Some(world) = World::with(limits) else {
        return;
    };
    internet(&world);
    world.allow(&["site.example"]);
    let descriptors = || {
        let path = format!("/proc/{}/fd", world.egress().pid());
        std::fs::read_dir(path).unwrap().count()
    };
    let before = descriptors();
    for _ in 0..5 {
        let mut all: Vec<TcpStream> = (0..50).map(|_| world.connect(SITE, 80)).collect();
        for stream in &mut all {
            assert!(is_served(stream));
        }
        // Some end in the middle of a head.
        for stream in all.iter_mut().step_by(2) {
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHo");
        }
        drop(all);
        eventually("the places are free again", || descriptors() <= before);
    }
    let mut half = world.connect(SITE, 443);
    half.write_all(&[22, 3]).unwrap();
    drop(half);
    eventually("and that one's", || descriptors() <= before);
}
