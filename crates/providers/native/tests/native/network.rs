//! Networks as the provider gives them, in a network namespace of the test's own. What a whole
//! server's sandboxes reach is tested end to end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;

use stacyvm_native::{NetworkChoice, NetworkSettings};
use stacyvm_provider::prelude::*;
use stacyvm_provider::{BoxSpec, Capability, Egress, NetworkMode, ProviderError};
use stacyvm_sys::netlink::{LinkSettings, Netlink, Route, VethPair};
use stacyvm_sys::{namespaces, netns};

use crate::support::{Sandbox, World, command, eventually, need_root};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(11, 22, 33, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(11, 22, 33, 2);
const PORT: u16 = 7000;

/// Moves this thread into a network namespace that ends with the test, next to another one in
/// which a thread answers every byte with itself.
fn leave_the_machine() {
    let host = netns::make_on_thread().unwrap();
    let outside = netns::make_on_thread().unwrap();
    let home = netns::of_thread().unwrap();
    namespaces::enter(&outside).unwrap();
    let listener = TcpListener::bind(("0.0.0.0", PORT)).unwrap();
    let mut there = Netlink::open().unwrap();
    namespaces::enter(&home).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let (mut stream, mut byte) = (stream, [0]);
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    namespaces::enter(&host).unwrap();
    let mut here = Netlink::open().unwrap();
    here.make_veth_pair(&VethPair {
        outer: "up0",
        inner: "up1",
        inner_namespace: outside.as_fd(),
        hardware_address: [2, 0, 0, 0, 0, 9],
        mtu: 1500,
        group: 0,
    })
    .unwrap();
    let settings = LinkSettings {
        forwarding: false,
        without_lookup: true,
    };
    for (netlink, name, own, other) in [
        (&mut here, "up0", HOST, OUTSIDE),
        (&mut there, "up1", OUTSIDE, HOST),
    ] {
        let device = netlink.link(name).unwrap().index;
        netlink.set_up(device, settings).unwrap();
        netlink.add_address(device, own.into()).unwrap();
        let route = Route {
            to: None,
            prefix: 0,
            device,
            via: Some(other.into()),
            source: Some(own.into()),
        };
        netlink.add_route(&route).unwrap();
    }
}

/// The program that resolves names, where it is built; tests of one crate alone do not build it.
fn egress_program() -> Option<PathBuf> {
    let own = std::env::current_exe().unwrap();
    let path = own.parent()?.parent()?.join("stacyvm-egress");
    path.is_file().then_some(path)
}

async fn world(program: Option<PathBuf>) -> World {
    World::with(|config, _| {
        config.network = NetworkSettings {
            choice: NetworkChoice::Bridge,
            egress_program: program.map(|path| (path, Vec::new())),
            ready: 2,
            ..NetworkSettings::default()
        };
    })
    .await
}

fn bridged(spec: &mut BoxSpec) {
    spec.network = NetworkMode::Bridge(Egress::Open);
}

/// Whether a new connection to the outside carries anything.
async fn reaches_outside(sandbox: &Sandbox) -> bool {
    let code = format!(
        "import socket\ntry:\n  s = socket.create_connection(('{OUTSIDE}', {PORT}), 10); s.settimeout(10); s.sendall(b'x'); print(s.recv(1) == b'x')\nexcept OSError: print(False)"
    );
    sandbox.python(&code).await.ok() == "True"
}

#[tokio::test]
async fn what_a_box_reaches_changes_while_it_runs_and_outlives_a_restart() {
    need_root!();
    let Some(program) = egress_program() else {
        return stacyvm_testing::skip("the program stacyvm-egress is not built");
    };
    leave_the_machine();
    let world = world(Some(program)).await;
    assert!(
        world
            .provider()
            .capabilities()
            .contains(&Capability::EgressDomains)
    );
    let sandbox = world.spawn_with(bridged).await;
    let id = &sandbox.id;
    assert!(reaches_outside(&sandbox).await);
    // A connection that goes on until it is cut.
    let talk = format!(
        "import socket, time\ns = socket.create_connection(('{OUTSIDE}', {PORT}), 10)\nopen('/workspace/up', 'w')\ntry:\n  while True:\n    s.sendall(b'x'); assert s.recv(1); time.sleep(0.01)\nexcept (OSError, AssertionError): print('cut')"
    );
    let mut talking = Box::pin(sandbox.run(command(["python3", "-c", &talk])));
    let closing = async {
        while sandbox.read("/workspace/up").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let closed = Egress::Domains(Vec::new());
        world.provider().set_egress(id, &closed).await.unwrap();
        closed
    };
    let (closed, outcome) = tokio::join!(closing, &mut talking);
    assert_eq!(outcome.ok(), "cut");
    drop(talking);
    assert!(!reaches_outside(&sandbox).await);
    let network = world.provider().network(id).await.unwrap();
    assert_eq!(network, NetworkMode::Bridge(closed.clone()));

    let world = world.restarted().await;
    let ops = world.provider().open(id).await.unwrap();
    let again = Sandbox {
        id: id.clone(),
        ops,
    };
    assert_eq!(
        world.provider().network(id).await.unwrap(),
        NetworkMode::Bridge(closed)
    );
    assert!(!reaches_outside(&again).await);
    world
        .provider()
        .set_egress(id, &Egress::Open)
        .await
        .unwrap();
    assert!(reaches_outside(&again).await);
    world.finish().await;
}

#[tokio::test]
async fn without_the_program_there_are_no_rules_by_name() {
    need_root!();
    leave_the_machine();
    let world = world(None).await;
    let provider = world.provider().clone();
    assert!(!provider.capabilities().contains(&Capability::EgressDomains));
    assert_eq!(
        provider.default_network(),
        NetworkMode::Bridge(Egress::Open)
    );
    let sandbox = world.spawn_with(bridged).await;
    assert!(reaches_outside(&sandbox).await);
    let lone = world.spawn().await;
    assert!(!reaches_outside(&lone).await);
    assert_eq!(provider.network(&lone.id).await.unwrap(), NetworkMode::None);
    for id in [&sandbox.id, &lone.id] {
        let refused = provider.set_egress(id, &Egress::Domains(Vec::new())).await;
        assert!(
            matches!(refused, Err(ProviderError::Unsupported(_))),
            "{refused:?}"
        );
    }
    let mut spec = crate::support::spec();
    spec.network = NetworkMode::Bridge(Egress::Domains(Vec::new()));
    let refused = provider.create(&spec).await;
    assert!(
        matches!(refused, Err(ProviderError::Unsupported(_))),
        "{refused:?}"
    );
    world.finish().await;
}

#[tokio::test]
async fn rules_that_somebody_removes_are_put_back() {
    need_root!();
    leave_the_machine();
    let world = world(None).await;
    let sandbox = world.spawn_with(bridged).await;
    let nft = |arguments: &[&str]| {
        let output = std::process::Command::new("nft")
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // As a reload of a firewall does it, all of it or only the rules.
    let tables = nft(&["list", "tables"]);
    let table = tables.split_whitespace().last().unwrap().to_owned();
    for removal in [
        vec!["flush", "ruleset"],
        vec!["flush", "table", "inet", &table],
    ] {
        nft(&removal);
        eventually("the rules are back", || {
            nft(&["list", "ruleset"]).contains("jump outwards")
        })
        .await;
        assert!(reaches_outside(&sandbox).await);
    }
    world.finish().await;
    assert_eq!(nft(&["list", "ruleset"]), "");
}
