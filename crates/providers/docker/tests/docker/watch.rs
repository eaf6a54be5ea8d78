//! Events of a real engine about containers that are paused, killed and removed outside StacyVM.

use std::collections::BTreeMap;

use stacyvm_provider::prelude::*;
use stacyvm_provider::{BoxSpec, NetworkMode, Notice};
use stacyvm_types::{SandboxId, Vcpus};

use crate::support::{Surroundings, World, soon};

pub(crate) fn spec(world: &World, number: u32, network: NetworkMode) -> BoxSpec {
    BoxSpec {
        id: SandboxId::from_u32(number),
        image: world.settings.default_image.clone(),
        isolation: world.provider().isolation(),
        memory_mb: 128,
        vcpus: Vcpus::ONE,
        pids_limit: 64,
        open_files: 1024,
        disk_mb: None,
        read_only_rootfs: false,
        network,
        user: None,
        workdir: None,
        env: BTreeMap::new(),
    }
}

#[tokio::test]
async fn pauses_kills_and_removals_of_others_are_noticed() {
    let Some(surroundings) = Surroundings::find() else {
        return;
    };
    let world = World::with(surroundings, |_| {}).await;
    let provider = world.provider();
    let mut notices = provider.notices().unwrap();
    let docker = |words: &[&str]| world.surroundings.docker(words);
    let mut waits = Vec::new();
    for number in 1..=3 {
        let spec = spec(&world, number, NetworkMode::None);
        provider.create(&spec).await.unwrap();
        let provider = provider.clone();
        waits.push((
            world.container(&spec.id),
            spec.id.clone(),
            tokio::spawn(async move { provider.wait_exit(&spec.id).await }),
        ));
    }
    let (paused, id, wait) = waits.remove(0);
    docker(&["pause", &paused]);
    let heard = soon("it is paused", notices.recv()).await;
    assert_eq!(heard, Some(Notice::Paused { id: id.clone() }));
    docker(&["unpause", &paused]);
    let heard = soon("it goes on", notices.recv()).await;
    assert_eq!(heard, Some(Notice::Resumed { id: id.clone() }));
    let (killed, _, ended) = waits.remove(0);
    docker(&["kill", &killed]);
    soon("it was killed", ended).await.unwrap();
    let (removed, gone, ended) = waits.remove(0);
    docker(&["rm", "--force", &removed]);
    soon("it was removed", ended).await.unwrap();
    soon("there is none", provider.wait_exit(&gone)).await;
    assert!(!wait.is_finished(), "the others live on");
    provider.destroy(&id).await.unwrap();
    soon("it is destroyed", wait).await.unwrap();
}
