//! Launchers that are killed, servers that start again, boxes that were never finished.

use std::path::PathBuf;
use std::task::Poll;

use stacyvm_provider::prelude::*;
use stacyvm_provider::{BoxState, ProviderError};
use stacyvm_types::SandboxId;

use crate::life::{has_ended, kill, states};
use crate::support::{TEST_TIMEOUT, World, eventually, need_root, spec};

#[tokio::test]
async fn sandboxes_outlive_a_killed_launcher() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let launcher = world.provider().launcher_pids()[0].cast_signed();
    kill(launcher);
    assert_eq!(sandbox.sh("echo alive").await.ok(), "alive");
    let provider = world.provider().clone();
    eventually("a new launcher runs", || {
        provider
            .launcher_pids()
            .iter()
            .any(|pid| pid.cast_signed() != launcher)
    })
    .await;
    let second = world.spawn().await;
    assert_eq!(second.sh("echo alive").await.ok(), "alive");
    world.finish().await;
}

#[tokio::test]
async fn launches_under_way_when_the_launcher_is_killed_leave_nothing_or_a_sandbox() {
    need_root!();
    let world = World::start().await;
    for round in 0..5 {
        let creating: Vec<_> = (0..8)
            .map(|_| {
                let (provider, spec) = (world.provider().clone(), spec());
                tokio::spawn(async move { (spec.id.clone(), provider.create(&spec).await) })
            })
            .collect();
        for _ in 0..round * 3 {
            tokio::task::yield_now().await;
        }
        for pid in world.provider().launcher_pids() {
            kill(pid.cast_signed());
        }
        let mut alive = Vec::new();
        for task in creating {
            let (id, result) = task.await.unwrap();
            match result {
                Ok(ops) => {
                    ops.ping().await.unwrap();
                    alive.push(id);
                }
                Err(error) => {
                    assert!(!error.to_string().contains('/'), "{error}");
                    assert!(!world.box_dir(&id).exists(), "{error}");
                }
            }
        }
        alive.sort();
        let listed: Vec<_> = states(&world).await.into_iter().map(|(id, _)| id).collect();
        assert_eq!(listed, alive);
        for id in alive {
            world.provider().destroy(&id).await.unwrap();
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn sandboxes_are_taken_over_after_a_restart() {
    need_root!();
    let world = World::start().await;
    let sandbox = world
        .spawn_with(|spec| {
            spec.env.insert("KEPT".to_owned(), "yes".to_owned());
        })
        .await;
    sandbox.write("/workspace/file", "before").await.unwrap();
    let uid = std::fs::read_to_string(world.box_dir(&sandbox.id).join("meta.json")).unwrap();
    for pid in world.provider().launcher_pids() {
        kill(pid.cast_signed());
    }
    let world = world.restarted().await;

    assert_eq!(
        states(&world).await,
        [(sandbox.id.clone(), BoxState::Running)]
    );
    let ops = world.provider().open(&sandbox.id).await.unwrap();
    let again = crate::support::Sandbox {
        id: sandbox.id.clone(),
        ops,
    };
    assert_eq!(again.sh("cat file; echo $KEPT").await.ok(), "beforeyes");
    assert!(world.provider().stats(&again.id).await.unwrap().mem_bytes > 0);
    // Its range of ids stays its own.
    let other = world.spawn().await;
    let theirs = std::fs::read_to_string(world.box_dir(&other.id).join("meta.json")).unwrap();
    let slot =
        |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["slot"].clone();
    assert_ne!(slot(&uid), slot(&theirs));

    let groups = world.cgroups(&again.id);
    let pid = world.provider().first_process(&again.id).unwrap();
    world.destroy(&again).await;
    assert!(groups.iter().all(|dir| !dir.exists()));
    eventually("its process is gone", || has_ended(pid)).await;
    world.finish().await;
}

#[tokio::test]
async fn a_sandbox_that_died_while_no_server_ran_is_dead() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let pid = world.provider().first_process(&sandbox.id).unwrap();
    world.provider().close().await;
    kill(pid);
    let world = world.restarted().await;
    eventually_state(&world, &sandbox.id, BoxState::Dead).await;
    let provider = world.provider();
    assert!(matches!(
        provider.open(&sandbox.id).await,
        Err(ProviderError::Backend { .. })
    ));
    provider.wait_exit(&sandbox.id).await;
    world.finish().await;
}

async fn eventually_state(world: &World, id: &SandboxId, wanted: BoxState) {
    let waiting = async {
        while !states(world).await.contains(&(id.clone(), wanted)) {
            tokio::task::yield_now().await;
        }
    };
    assert!(
        tokio::time::timeout(TEST_TIMEOUT, waiting).await.is_ok(),
        "{:?}",
        states(world).await
    );
}

#[tokio::test]
async fn half_made_boxes_are_found_and_removed() {
    need_root!();
    let world = World::start().await;
    let whole = world.spawn().await;
    let meta = std::fs::read_to_string(world.box_dir(&whole.id).join("meta.json")).unwrap();
    let groups = world.cgroups(&whole.id);
    world.provider().close().await;

    let made = |number: u32| {
        let id = SandboxId::from_u32(0xeeee_0000 + number);
        std::fs::create_dir(world.box_dir(&id)).unwrap();
        id
    };
    let empty = made(1);
    let torn = made(2);
    std::fs::write(
        world.box_dir(&torn).join("meta.json"),
        &meta[..meta.len() / 2],
    )
    .unwrap();
    let unstarted = made(3);
    let own = meta.replace(whole.id.as_str(), unstarted.as_str());
    std::fs::write(world.box_dir(&unstarted).join("meta.json"), own).unwrap();
    let torn_pid = made(4);
    let own = meta.replace(whole.id.as_str(), torn_pid.as_str());
    std::fs::write(world.box_dir(&torn_pid).join("meta.json"), own).unwrap();
    std::fs::write(world.box_dir(&torn_pid).join("pid.json"), "{\"pid\":").unwrap();
    let group_only = SandboxId::from_u32(0xeeee_0005);
    let orphans: Vec<PathBuf> = groups
        .iter()
        .map(|dir| dir.with_file_name(group_only.as_str()))
        .collect();
    for dir in &orphans {
        let _ = std::fs::create_dir(dir);
    }
    // A process that no file names, in the group that is left.
    let mut stray = std::process::Command::new("sleep")
        .arg("600")
        .spawn()
        .unwrap();
    for dir in &orphans {
        std::fs::write(dir.join("cgroup.procs"), stray.id().to_string()).unwrap();
    }

    let world = world.restarted().await;
    let mut expected = vec![(whole.id.clone(), BoxState::Running)];
    for id in [&empty, &torn, &unstarted, &torn_pid, &group_only] {
        expected.push((id.clone(), BoxState::Partial));
    }
    assert_eq!(states(&world).await, expected);
    for id in [&empty, &torn, &unstarted, &torn_pid] {
        assert!(world.provider().open(id).await.is_err());
    }
    world.finish().await;
    for dir in orphans {
        assert!(!dir.exists(), "{} is left", dir.display());
    }
    let ended = tokio::task::spawn_blocking(move || stray.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(!ended.success(), "the stray process was not killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_nobody_waits_for_leaves_nothing() {
    need_root!();
    let world = World::start().await;
    for polls in 0..12 {
        let spec = spec();
        let mut creating = world.provider().create(&spec);
        let mut finished = false;
        for _ in 0..=polls {
            let poll = std::future::poll_fn(|context| {
                Poll::Ready(creating.as_mut().poll(context).is_ready())
            });
            finished = poll.await;
            if finished {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_micros(400)).await;
        }
        drop(creating);
        if finished {
            world.provider().destroy(&spec.id).await.unwrap();
        }
        let gone = async {
            while !states(&world).await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        assert!(
            tokio::time::timeout(TEST_TIMEOUT, gone).await.is_ok(),
            "{:?}",
            states(&world).await
        );
        assert!(!world.box_dir(&spec.id).exists());
    }
    world.finish().await;
}
