//! What containers with a network can reach and what not, while servers and engines come and go. Each
//! test has network namespaces of its own (see `isolated_network`).

use std::sync::Arc;

use stacyvm_docker::{DockerProvider, DockerSettings, NetworkChoice};
use stacyvm_provider::ops::{Credentials, ExecEvent, ExecSpec, OnDisconnect};
use stacyvm_provider::prelude::*;
use stacyvm_provider::{Capability, Egress, NetworkMode, ProviderError, SandboxOps};
use stacyvm_types::{OutputStream, SandboxId};

use crate::isolated_network::{ASK, IsolatedNetwork, LISTEN, PORT};
use crate::support::{Surroundings, World, eventually};
use crate::watch::spec;

/// The ranges of the engine's own bridge and of further networks.
const POOLS: &str = r#"{"base":"172.30.0.0/16","size":24}"#;
/// The port of the host that is open to containers.
const OPEN: u16 = PORT + 2;

fn open() -> NetworkMode {
    NetworkMode::Bridge(Egress::Open)
}

fn settings(settings: &mut DockerSettings) {
    settings.network.allow_host_ports = vec![OPEN];
    // A private address, as name servers often have.
    settings.network.name_servers = vec!["192.168.77.1".parse().unwrap()];
}

/// Runs a program in a sandbox and returns its standard output.
async fn inside(sandbox: &dyn SandboxOps, argv: &[&str]) -> String {
    let spec = ExecSpec {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: Default::default(),
        workdir: Some("/".to_owned()),
        user: Credentials::Default,
        stdin: false,
        tty: None,
        timeout: None,
        on_disconnect: OnDisconnect::Kill,
        kill_orphans: false,
    };
    let mut session = sandbox.exec(spec).await.unwrap();
    let mut printed = Vec::new();
    while let Some(event) = session.events.recv().await {
        match event {
            ExecEvent::Output(OutputStream::Stdout, bytes) => printed.extend_from_slice(&bytes),
            ExecEvent::Output(..) => {}
            // A command that outlives its connection says where its output begins.
            ExecEvent::Resumed(_) => {}
            ExecEvent::End => unreachable!("the end of a look at output"),
            ExecEvent::Exit(_) => break,
        }
    }
    String::from_utf8(printed).unwrap()
}

/// Runs [`ASK`] in a sandbox.
async fn ask(sandbox: &dyn SandboxOps, targets: &str) -> String {
    inside(sandbox, &["python3", "-c", ASK, targets]).await
}

async fn made(world: &World, number: u32) -> (SandboxId, Arc<dyn SandboxOps>) {
    let spec = spec(world, number, world.provider().default_network());
    let sandbox = world.provider().create(&spec).await.unwrap();
    (spec.id, sandbox)
}

impl World {
    fn looked_at(&self, id: &SandboxId, what: &str) -> String {
        let format = format!("{{{{{what}}}}}");
        let name = self.container(id);
        self.surroundings
            .docker(&["inspect", "--format", &format, &name])
    }

    /// A container's address and that of its gateway.
    fn addresses(&self, id: &SandboxId) -> [String; 2] {
        let network = format!(
            "(index .NetworkSettings.Networks \"stacyvm-{}\")",
            self.settings.tag
        );
        ["IPAddress", "Gateway"].map(|field| self.looked_at(id, &format!("{network}.{field}")))
    }
}

/// The targets that must be closed whatever happens to servers and engines.
fn forbidden(gateway: &str, neighbour: &str) -> String {
    let mut targets = String::new();
    for address in [
        // The host, by each of its addresses, and another bridge of the engine.
        "11.22.33.2",
        "192.168.77.2",
        "172.30.0.1",
        gateway,
        // Metadata and a private network.
        "169.254.169.254",
        "192.168.77.1",
        neighbour,
    ] {
        targets += &format!("tcp {address} {PORT}\nudp {address} {PORT}\n");
    }
    targets
}

/// Asserts that everything is refused except for the outside and the open port.
#[track_caller]
fn assert_closed(outcomes: &str, gateway: &str) {
    for line in outcomes.lines() {
        let (target, outcome) = line.split_once(" = ").unwrap();
        let allowed = target.contains(" 11.22.33.1 ") || target == format!("tcp {gateway} {OPEN}");
        assert_eq!(outcome == "hello", allowed, "{line}\nof\n{outcomes}");
    }
}

#[tokio::test]
async fn containers_reach_the_outside_and_nothing_of_the_host() {
    let Some((network, surroundings)) = IsolatedNetwork::enter(POOLS) else {
        return;
    };
    let mut world = World::with(surroundings, settings).await;
    let provider = world.provider().clone();
    assert_eq!(provider.degradations(), Vec::<String>::new());
    assert!(provider.capabilities().contains(&Capability::NetworkBridge));
    assert!(!provider.capabilities().contains(&Capability::EgressDomains));
    assert_eq!(provider.default_network(), open());
    let (id, sandbox) = made(&world, 1).await;
    let (other, neighbour) = made(&world, 2).await;
    let listening = tokio::spawn(async move {
        let program = format!("exec 0<&-; python3 -c \"$0\" {PORT}");
        let endless = LISTEN.replace("while os.read(0, 100): pass", "threading.Event().wait()");
        inside(neighbour.as_ref(), &["sh", "-c", &program, &endless]).await
    });
    let [own, gateway] = world.addresses(&id);
    let [there, _] = world.addresses(&other);
    let reachable = provider.open(&other).await.unwrap();
    eventually("the neighbour listens", async || {
        let targets = format!("tcp 127.0.0.1 {PORT}\nudp {there} {PORT}");
        ask(reachable.as_ref(), &targets)
            .await
            .matches("hello")
            .count()
            == 2
    })
    .await;
    let targets = format!(
        "tcp 11.22.33.1 {PORT}\nudp 11.22.33.1 {PORT}\ntcp {gateway} {OPEN}\n{}",
        forbidden(&gateway, &there)
    );
    assert_closed(&ask(sandbox.as_ref(), &targets).await, &gateway);
    // The name server has a private address, of which only its port is open.
    let resolved = inside(sandbox.as_ref(), &["getent", "hosts", "outside.example"]).await;
    assert!(resolved.contains("11.22.33.1"), "{resolved}");
    let ipv6 = inside(sandbox.as_ref(), &["cat", "/proc/net/if_inet6"]).await;
    assert!(!ipv6.contains("eth0"), "{ipv6}");
    // Neither the host nor the outside can connect to containers.
    network
        .outside
        .run(&format!("ip route add {there}/32 via 11.22.33.2"));
    for namespace in [&network.host, &network.outside] {
        let asked = namespace.ask(&format!("tcp {there} {PORT}\nudp {there} {PORT}"));
        assert!(!asked.contains("hello"), "{asked}");
    }
    forged_senders_are_not_heard(&network, &world, &id, &own);

    // A sandbox without a network has none, and an unsupported one is refused.
    let none = spec(&world, 3, NetworkMode::None);
    let alone = provider.create(&none).await.unwrap();
    let devices = inside(alone.as_ref(), &["cat", "/proc/net/dev"]).await;
    assert!(!devices.contains("eth0"), "{devices}");
    assert_eq!(provider.network(&id).await.unwrap(), open());
    assert_eq!(provider.network(&none.id).await.unwrap(), NetworkMode::None);
    let named = spec(&world, 4, NetworkMode::Bridge(Egress::Domains(Vec::new())));
    let refused = provider.create(&named).await.map(drop);
    assert!(
        matches!(refused, Err(ProviderError::Unsupported(_))),
        "{refused:?}"
    );
    let changed = provider.set_egress(&id, &Egress::Open).await;
    assert!(matches!(changed, Err(ProviderError::Unsupported(_))));

    // It was the rules that closed these targets: without them every one answers.
    provider.close().await;
    let table = format!("stacyvm_docker_{}", world.settings.tag.replace('-', "_"));
    for family in ["inet", "bridge"] {
        network
            .host
            .run(&format!("nft delete table {family} {table}"));
    }
    world.restart().await;
    let asked = ask(sandbox.as_ref(), &forbidden(&gateway, "11.22.33.2")).await;
    let answered = asked.matches("hello").count();
    assert_eq!(answered, asked.lines().count(), "{asked}");
    // The next health check loads the rules again.
    assert!(world.provider().health().await.healthy);
    assert_closed(&ask(sandbox.as_ref(), &targets).await, &gateway);
    listening.abort();
    for id in [id, other, none.id] {
        world.provider().destroy(&id).await.unwrap();
    }
    world.provider().close().await;
    assert_eq!(world.remains(), Vec::<String>::new());
    assert!(!network.host.run("nft list tables").contains(&table));
}

/// Sends from the container's namespace, with all rights, under addresses of others.
fn forged_senders_are_not_heard(
    network: &IsolatedNetwork,
    world: &World,
    id: &SandboxId,
    own: &str,
) {
    let pid = world.looked_at(id, ".State.Pid");
    let send = |address: &str| {
        let script = format!(
            "ip addr add {address}/32 dev eth0; python3 -c \"import socket; s = socket.socket(2, 2); s.bind(('{address}', 0)); s.sendto(b'from-{address}', ('11.22.33.1', {PORT}))\"; [ {address} = {own} ] || ip addr del {address}/32 dev eth0"
        );
        let sent = std::process::Command::new("nsenter")
            .args([
                &format!("--net=/proc/{pid}/ns/net"),
                "--",
                "sh",
                "-c",
                &script,
            ])
            .output()
            .unwrap();
        assert!(sent.status.success(), "{sent:?}");
    };
    send("11.22.33.77");
    send("10.66.66.66");
    send("192.168.77.2");
    send(own);
    // The packet that was sent last has arrived, so the others were dropped.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let heard = network.heard();
        if heard.contains(&format!("from-{own}")) {
            assert_eq!(heard.matches("from-").count(), 1, "{heard}");
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{heard}");
    }
}

#[tokio::test]
async fn the_rules_outlive_servers_and_engines_and_come_back() {
    let Some((mut network, surroundings)) = IsolatedNetwork::enter(POOLS) else {
        return;
    };
    let mut world = World::with(surroundings, settings).await;
    let (id, sandbox) = made(&world, 1).await;
    let [_, gateway] = world.addresses(&id);
    let targets = format!(
        "tcp 11.22.33.1 {PORT}\ntcp {gateway} {OPEN}\n{}",
        forbidden(&gateway, "11.22.33.2")
    );
    assert_closed(&ask(sandbox.as_ref(), &targets).await, &gateway);
    let table = format!("stacyvm_docker_{}", world.settings.tag.replace('-', "_"));
    // Another firewall on the host is reloaded, which removes all rules.
    for family in ["inet", "bridge"] {
        network.host.run("nft flush ruleset");
        let whole = format!("nft list table {family} {table}");
        eventually("the rules are back", async || {
            let mut words = whole.split(' ');
            let program = words.next().unwrap();
            let listed = network.host.command(program).args(words).output().unwrap();
            listed.status.success()
        })
        .await;
    }
    assert_closed(&refused_still(sandbox.as_ref(), &targets).await, &gateway);
    // The server is killed and started again.
    world.kill();
    assert!(world.provider().health().await.healthy);
    let sandbox = world.provider().open(&id).await.unwrap();
    assert_closed(&refused_still(sandbox.as_ref(), &targets).await, &gateway);
    // The engine is killed and started again.
    network.kill_engine();
    assert!(!world.provider().health().await.healthy);
    assert_closed(&refused_still(sandbox.as_ref(), &targets).await, &gateway);
    network.start_engine(POOLS);
    let health = world.provider().health().await;
    assert!(health.healthy, "{health:?}");
    assert_closed(&refused_still(sandbox.as_ref(), &targets).await, &gateway);
    // Network and rules stay while a container is connected, and no longer.
    world.provider().close().await;
    assert!(network.host.run("nft list tables").contains(&table));
    assert_closed(&refused_still(sandbox.as_ref(), &targets).await, &gateway);
    world.restart().await;
    world.provider().destroy(&id).await.unwrap();
    // An unused network that is removed outside StacyVM is there again after a health check.
    let name = format!("stacyvm-{}", world.settings.tag);
    world.surroundings.docker(&["network", "rm", &name]);
    assert!(world.provider().health().await.healthy);
    assert_eq!(world.provider().default_network(), open());
    world.provider().close().await;
    assert_eq!(world.remains(), Vec::<String>::new());
    assert!(!network.host.run("nft list tables").contains(&table));
}

/// The outcomes without those of the outside, for times at which the engine's own rules may be
/// missing: then the outside may not answer, but no closed target may either.
async fn refused_still(sandbox: &dyn SandboxOps, targets: &str) -> String {
    let asked = ask(sandbox, targets).await;
    let kept = asked.lines().filter(|line| !line.contains(" 11.22.33.1 "));
    kept.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn ranges_that_are_taken_are_said_or_gone_around() {
    // The one range is taken by the engine's own bridge.
    let one = r#"{"base":"172.30.0.0/24","size":24}"#;
    let Some((_network, surroundings)) = IsolatedNetwork::enter(one) else {
        return;
    };
    let wanted = |settings: &mut DockerSettings| {
        settings.network.subnet = Some("172.30.0.0/25".parse().unwrap());
    };
    let again = surroundings.clone();
    let world = World::with(surroundings, wanted).await;
    assert_eq!(world.provider().default_network(), NetworkMode::None);
    let said = world.provider().degradations().concat();
    assert!(
        said.contains("172.30.0.0/25") && said.contains("network_subnet"),
        "{said}"
    );
    let world = World::with(again, |_| {}).await;
    assert_eq!(world.provider().default_network(), open());
    let (id, _sandbox) = made(&world, 1).await;
    let [address, _] = world.addresses(&id);
    assert!(address.starts_with("10."), "{address}");
    world.provider().destroy(&id).await.unwrap();
    world.provider().close().await;
    assert_eq!(world.remains(), Vec::<String>::new());
}

/// The tests' engine is in another network namespace than this thread.
#[tokio::test]
async fn an_engine_elsewhere_gives_no_network_unless_it_is_wanted_without_rules() {
    let Some(surroundings) = Surroundings::find() else {
        return;
    };
    let again = || surroundings.clone();
    let world = World::with(again(), |_| {}).await;
    let provider: &Arc<DockerProvider> = world.provider();
    assert_eq!(provider.default_network(), NetworkMode::None);
    assert!(!provider.capabilities().contains(&Capability::NetworkBridge));
    let said = provider.degradations().join("\n");
    assert!(said.contains("unfiltered_network"), "{said}");
    assert_eq!(world.remains(), Vec::<String>::new());
    let refused = provider.create(&spec(&world, 1, open())).await.map(drop);
    assert!(
        matches!(refused, Err(ProviderError::Unsupported(_))),
        "{refused:?}"
    );

    let world = World::with(again(), |settings| settings.network.unfiltered = true).await;
    assert_eq!(world.provider().default_network(), open());
    let said = world.provider().degradations().join("\n");
    assert!(said.contains("reach this engine's host"), "{said}");
    let (id, sandbox) = made(&world, 1).await;
    let devices = inside(sandbox.as_ref(), &["cat", "/proc/net/dev"]).await;
    assert!(devices.contains("eth0"), "{devices}");
    world.provider().destroy(&id).await.unwrap();
    world.provider().close().await;
    assert_eq!(world.remains(), Vec::<String>::new());

    let world = World::with(again(), |settings| {
        settings.network.choice = NetworkChoice::None;
        settings.network.unfiltered = true;
    })
    .await;
    assert_eq!(world.provider().default_network(), NetworkMode::None);
    assert_eq!(world.remains(), Vec::<String>::new());
}
