//! Boxes from their beginning to their end, and through the deaths of everything around them.

use rustix::process::{Pid, Signal, kill_process};
use stacyvm_native::{Level, diagnose};
use stacyvm_provider::prelude::*;
use stacyvm_provider::{BoxState, ProviderError};
use stacyvm_types::{Isolation, SandboxId};

use crate::support::{TEST_TIMEOUT, World, copy_program, eventually, need_root, spec};

pub(crate) fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

pub(crate) async fn states(world: &World) -> Vec<(SandboxId, BoxState)> {
    let list = world.provider().list().await.unwrap();
    list.into_iter()
        .map(|found| (found.id, found.state))
        .collect()
}

fn host_mounts(world: &World) -> String {
    let data = world.config.data_dir.to_str().unwrap();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(data)).collect()
}

#[tokio::test]
async fn a_destroyed_sandbox_leaves_nothing() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    sandbox
        .sh("echo x > /workspace/file; sleep 600 >/dev/null 2>&1 &")
        .await
        .ok();
    let pid = world.provider().first_process(&sandbox.id).unwrap();
    let groups = world.cgroups(&sandbox.id);
    assert!(
        !groups.is_empty() && groups.iter().all(|dir| dir.is_dir()),
        "{groups:?}"
    );
    assert_eq!(host_mounts(&world), "", "a mount shows on the host");
    assert_eq!(
        states(&world).await,
        [(sandbox.id.clone(), BoxState::Running)]
    );

    world.destroy(&sandbox).await;
    assert!(has_ended(pid), "it still runs");
    for dir in groups {
        assert!(!dir.exists(), "{} is left", dir.display());
    }
    assert!(!world.box_dir(&sandbox.id).exists());
    assert_eq!(states(&world).await, []);
    assert!(sandbox.ops.ping().await.is_err());
    let trash = world.config.data_dir.join("native/trash");
    eventually("the trash is empty", || {
        std::fs::read_dir(&trash).unwrap().next().is_none()
    })
    .await;
    // Again, and one that never was.
    world.destroy(&sandbox).await;
    world
        .provider()
        .destroy(&SandboxId::from_u32(0xffff_0000))
        .await
        .unwrap();
    world.finish().await;
}

/// Gone, or only waiting for its parent to notice. One look: it may go between two.
pub(crate) fn has_ended(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
        stat.rsplit(')')
            .next()
            .unwrap()
            .trim_start()
            .starts_with(['Z', 'X'])
    })
}

#[tokio::test]
async fn unknown_boxes_have_documented_answers() {
    need_root!();
    let world = World::start().await;
    let id = SandboxId::from_u32(0xffff_0001);
    let provider = world.provider();
    assert!(matches!(
        provider.open(&id).await,
        Err(ProviderError::NotFound(_))
    ));
    assert!(matches!(
        provider.stats(&id).await,
        Err(ProviderError::NotFound(_))
    ));
    provider.wait_exit(&id).await;
    assert_eq!(provider.isolation(), Isolation::Container);

    let sandbox = world.spawn().await;
    let mut again = spec();
    again.id = sandbox.id.clone();
    assert!(matches!(
        provider.create(&again).await,
        Err(ProviderError::Invalid(_))
    ));
    assert_eq!(sandbox.sh("echo alive").await.ok(), "alive");
    world.finish().await;
}

#[tokio::test]
async fn a_health_check_makes_a_sandbox_that_nobody_sees() {
    need_root!();
    let world = World::start().await;
    let health = world.provider().health().await;
    assert!(health.healthy, "{health:?}");
    world.finish().await;

    let world = World::with(|config, home| {
        // A launcher that starts and then knows nothing.
        let program = home.join("launcher");
        copy_program(std::path::Path::new("/bin/true"), &program);
        config.launcher_program = program;
    })
    .await;
    let health = world.provider().health().await;
    assert!(!health.healthy);
    assert!(
        health.error.unwrap().contains("launcher"),
        "the error must name what is wrong"
    );
    world.finish().await;
}

#[tokio::test]
async fn use_is_measured() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let before = world.provider().stats(&sandbox.id).await.unwrap();
    assert!(before.supported);
    assert_eq!(before.mem_limit_bytes, 512 << 20);
    assert!(before.pids >= 1 && before.mem_bytes > 0, "{before:?}");
    sandbox
        .sh("head -c 3000000 /dev/urandom > /workspace/file; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
        .await
        .ok();
    let after = world.provider().stats(&sandbox.id).await.unwrap();
    assert!(after.cpu_pct > 0.0, "{after:?}");
    world.finish().await;
}

#[tokio::test]
async fn an_end_by_itself_is_noticed() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let pid = world.provider().first_process(&sandbox.id).unwrap();
    let waiting = tokio::spawn({
        let (provider, id) = (world.provider().clone(), sandbox.id.clone());
        async move { provider.wait_exit(&id).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    kill(pid);
    tokio::time::timeout(TEST_TIMEOUT, waiting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(states(&world).await, [(sandbox.id.clone(), BoxState::Dead)]);
    let opened = world.provider().open(&sandbox.id).await;
    assert!(
        matches!(opened, Err(ProviderError::Backend { .. })),
        "{opened:?}"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_hundred_at_once() {
    need_root!();
    let world = World::start().await;
    let creating: Vec<_> = (0..100)
        .map(|_| {
            let (provider, spec) = (world.provider().clone(), spec());
            tokio::spawn(async move { provider.create(&spec).await.map(|ops| (spec.id, ops)) })
        })
        .collect();
    let mut made = Vec::new();
    for task in creating {
        made.push(task.await.unwrap().unwrap());
    }
    assert_eq!(states(&world).await.len(), 100);
    for (_, ops) in &made {
        ops.ping().await.unwrap();
    }
    let removing: Vec<_> = made
        .into_iter()
        .map(|(id, _)| {
            let provider = world.provider().clone();
            tokio::spawn(async move { provider.destroy(&id).await })
        })
        .collect();
    for task in removing {
        task.await.unwrap().unwrap();
    }
    assert_eq!(states(&world).await, []);
    world.finish().await;
}

#[tokio::test]
async fn one_directory_has_one_server() {
    need_root!();
    let world = World::start().await;
    let second = world.another_provider().await;
    assert!(
        matches!(second, Err(ProviderError::Unavailable(_))),
        "{second:?}"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_closed_provider_makes_nothing() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let launchers = world.provider().launcher_pids();
    world.provider().close().await;
    assert!(
        launchers
            .iter()
            .all(|pid| stacyvm_sys::proc::start_ticks(pid.cast_signed()).is_none())
    );
    let made = world.provider().create(&spec()).await;
    assert!(
        matches!(made, Err(ProviderError::Unavailable(_))),
        "{made:?}"
    );
    assert_eq!(sandbox.sh("echo alive").await.ok(), "alive");
    world.restarted().await.finish().await;
}

#[tokio::test]
async fn the_data_directory_is_closed_to_others() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    for path in [
        world.config.data_dir.join("native"),
        world.boxes(),
        world.box_dir(&sandbox.id),
    ] {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&path).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }
    world.finish().await;
}

#[tokio::test]
async fn the_doctor_looks_beside_a_running_server_and_leaves_nothing() {
    need_root!();
    let world = World::start().await;
    let findings = diagnose(&world.config).await;
    for name in [
        "privileges",
        "user namespaces",
        "seccomp",
        "cgroups",
        "disk space",
        "isolation",
        "a sandbox",
    ] {
        let found = findings.iter().find(|finding| finding.name == name);
        let found = found.unwrap_or_else(|| panic!("nothing about {name}: {findings:?}"));
        assert_ne!(found.level, Level::Fail, "{found:?}");
    }
    let left: Vec<_> = std::fs::read_dir(&world.config.data_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["native"]);

    let mut broken = world.config.clone();
    broken.launcher_program = "/nowhere/launcher".into();
    let findings = diagnose(&broken).await;
    assert!(findings.iter().any(|finding| finding.level == Level::Fail));
    world.finish().await;
}
