//! An engine that does not see our files: reached over a port, in the clear and over TLS.

use std::net::SocketAddr;
use std::path::PathBuf;

use stacyvm_docker::{DockerSettings, EngineAddress};
use stacyvm_provider::Provider as _;
use stacyvm_provider::conformance::{Sandbox, spec};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};

use crate::support::{Surroundings, World};

/// A port of this machine that leads to the tests' engine.
async fn port_to(engine: &str) -> SocketAddr {
    let path = PathBuf::from(engine.strip_prefix("unix://").unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let path = path.clone();
            tokio::spawn(async move {
                let mut engine = UnixStream::connect(path).await.unwrap();
                let _ = copy_bidirectional(&mut peer, &mut engine).await;
            });
        }
    });
    address
}

async fn over_a_port(test: &str, change: impl FnOnce(&mut DockerSettings)) -> Option<World> {
    let surroundings = Surroundings::find(test)?;
    let port = port_to(&surroundings.engine).await;
    let address = EngineAddress::parse(&format!("tcp://{port}"), None).unwrap();
    let world = World::with(surroundings, |settings| {
        settings.address = address;
        change(settings);
    });
    Some(world.await)
}

#[tokio::test]
async fn the_agent_comes_in_a_volume_and_answers_over_the_attachment() {
    let world = over_a_port("the_agent_comes_in_a_volume", |settings| {
        settings.attach_only = true
    });
    let Some(world) = world.await else {
        return;
    };
    let spec = spec(&**world.provider());
    let ops = world.provider().create(&spec).await.unwrap();
    let sandbox = Sandbox { id: spec.id, ops };
    assert_eq!(sandbox.say("echo far away").await.unwrap(), "far away");
    let name = world.container(&sandbox.id);
    let mounts = [
        "inspect",
        "--format",
        "{{range .Mounts}}{{.Type}} {{.Name}} {{.RW}};{{end}}",
        &name,
    ];
    let mounts = world.surroundings.docker(&mounts);
    assert!(mounts.starts_with("volume stacyvm-agent-"), "{mounts}");
    assert!(mounts.ends_with(" false;"), "{mounts}");
    world.provider().destroy(&sandbox.id).await.unwrap();
    assert_eq!(world.remains(), Vec::<String>::new());
}
