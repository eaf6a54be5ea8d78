//! Warm containers: claimed, refilled, taken over, and gone.

use stacyvm_docker::{DockerProvider, DockerSettings, WarmSettings};
use stacyvm_provider::BoxSpec;
use stacyvm_provider::conformance::{Sandbox, eventually, spec};
use stacyvm_provider::prelude::*;
use stacyvm_types::Vcpus;

use crate::support::{Surroundings, World};

/// Two containers of the default image, with the limits of the conformance suite's sandboxes.
pub(crate) fn keep_two(settings: &mut DockerSettings) {
    settings.warm = WarmSettings {
        images: [(settings.default_image.clone(), 2)].into(),
        memory_mb: 512,
        vcpus: Vcpus::ONE,
        pids_limit: 256,
        open_files: 1024,
        disk_mb: None,
    };
}

async fn world() -> Option<World> {
    Some(World::with(Surroundings::find()?, keep_two).await)
}

impl World {
    fn id_of(&self, container: &str) -> String {
        let words = ["inspect", "--format", "{{.Id}}", container];
        self.surroundings.docker(&words)
    }

    /// The spec of a spawn without options.
    fn usual(&self) -> BoxSpec {
        let provider = &**self.provider();
        BoxSpec {
            network: provider.default_network(),
            ..spec(provider)
        }
    }

    async fn make(&self, change: impl FnOnce(&mut BoxSpec)) -> Sandbox {
        let mut wanted = self.usual();
        change(&mut wanted);
        let ops = self.provider().create(&wanted).await.unwrap();
        Sandbox { id: wanted.id, ops }
    }
}

#[tokio::test]
async fn a_spawn_takes_a_waiting_container_and_another_one_is_made() {
    let Some(world) = world().await else {
        return;
    };
    let waiting = world.until_warm(2).await;
    let before: Vec<String> = waiting.iter().map(|name| world.id_of(name)).collect();
    assert!(world.provider().list().await.unwrap().is_empty());
    let sandbox = world
        .make(|spec| {
            spec.env.insert("WHO".to_owned(), "me".to_owned());
            spec.workdir = Some("/tmp".to_owned());
        })
        .await;
    let now = world.id_of(&world.container(&sandbox.id));
    assert!(before.contains(&now), "{now} was none of {before:?}");
    assert_eq!(
        sandbox.say("echo $WHO; pwd; id -u").await.unwrap(),
        "me\n/tmp\n1000"
    );
    let listed = world.provider().list().await.unwrap();
    assert_eq!(listed.len(), 1);
    let again = world.until_warm(2).await;
    assert!(
        again.iter().filter(|name| waiting.contains(name)).count() == 1,
        "{again:?}"
    );
    world.provider().destroy(&sandbox.id).await.unwrap();
    world.provider().close().await;
    assert_eq!(world.remains(), Vec::<String>::new());
}

#[tokio::test]
async fn limits_are_those_that_were_asked_for() {
    let Some(world) = world().await else {
        return;
    };
    let before: Vec<String> = world.until_warm(2).await;
    let before: Vec<String> = before.iter().map(|name| world.id_of(name)).collect();
    let sandbox = world
        .make(|spec| {
            spec.memory_mb = 300;
            spec.pids_limit = 77;
            spec.vcpus = "0.5".parse().unwrap();
        })
        .await;
    let container = world.container(&sandbox.id);
    assert!(before.contains(&world.id_of(&container)));
    let format = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}";
    let limits = world
        .surroundings
        .docker(&["inspect", "--format", format, &container]);
    let memory = 300 * 1024 * 1024;
    assert_eq!(limits, format!("{memory} {memory} 500000000 77"));
    let stats = world.provider().stats(&sandbox.id).await.unwrap();
    assert_eq!(stats.mem_limit_bytes, 300 * 1024 * 1024);
}

#[tokio::test]
async fn a_spawn_that_fits_none_is_made_the_usual_way() {
    let Some(world) = world().await else {
        return;
    };
    let waiting = world.until_warm(2).await;
    let read_only = world.make(|spec| spec.read_only_rootfs = true).await;
    assert!(
        read_only
            .say("touch /etc/x || echo no")
            .await
            .unwrap()
            .ends_with("no")
    );
    let user = world.make(|spec| spec.user = Some("root".to_owned())).await;
    assert_eq!(user.say("id -u").await.unwrap(), "0");
    assert_eq!(world.until_warm(2).await, waiting);
}

#[tokio::test]
async fn one_that_has_died_is_passed_over() {
    let Some(world) = world().await else {
        return;
    };
    for container in world.until_warm(2).await {
        world.surroundings.docker(&["kill", &container]);
    }
    let sandbox = world.make(|_| {}).await;
    assert_eq!(sandbox.say("echo fine").await.unwrap(), "fine");
    world.provider().destroy(&sandbox.id).await.unwrap();
    world.until_warm(2).await;
    world.provider().close().await;
    assert_eq!(world.remains(), Vec::<String>::new());
}

/// The containers that a server leaves which is killed after it has made its warm ones.
async fn crash(world: &World) -> Vec<String> {
    let settings = world.settings.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // All of the server's tasks end with its runtime, at any point.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let provider = DockerProvider::new(settings).unwrap();
                provider.list().await.unwrap();
                world.wait_for_warm(2).await;
            });
        });
    });
    world.warm()
}

#[tokio::test]
async fn what_a_killed_server_left_is_taken_over() {
    let Some(world) = world().await else {
        return;
    };
    let left = crash(&world).await;
    let ids: Vec<String> = left.iter().map(|name| world.id_of(name)).collect();
    let next = world.provider();
    next.list().await.unwrap();
    let mut wanted = world.usual();
    let mut made = Vec::new();
    // Before the server has listed them, it starts sandboxes the ordinary way.
    eventually("one that was left becomes a sandbox", async || {
        wanted.id = world.usual().id;
        next.create(&wanted).await?;
        made.push(wanted.id.clone());
        Ok(ids.contains(&world.id_of(&world.container(&wanted.id))))
    })
    .await
    .unwrap();
    for id in made {
        next.destroy(&id).await.unwrap();
    }
    next.close().await;
    assert_eq!(world.remains(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_wanted_no_more_is_removed_after_a_crash() {
    let Some(world) = world().await else {
        return;
    };
    crash(&world).await;
    let settings = DockerSettings {
        warm: WarmSettings::default(),
        ..world.settings.clone()
    };
    let next = DockerProvider::new(settings).unwrap();
    next.list().await.unwrap();
    eventually("nothing is warm", async || Ok(world.warm().is_empty()))
        .await
        .unwrap();
    next.close().await;
}
