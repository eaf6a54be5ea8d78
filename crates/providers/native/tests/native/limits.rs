//! Limits, from inside and from outside: each one holds, is reported, and shows in the figures.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use stacyvm_provider::ops::OpError;
use stacyvm_provider::prelude::*;
use stacyvm_provider::{Capability, Notice};
use stacyvm_testing::skip;
use stacyvm_types::{ExitReason, SandboxId, Vcpus};
use tokio::sync::mpsc::Receiver;

use crate::support::{Sandbox, TEST_TIMEOUT, World, command, eventually, need_root};

/// Waits until the provider reports that this sandbox has reached this limit.
async fn limit_is_reported(notices: &mut Receiver<Notice>, id: &SandboxId, limit: &'static str) {
    let wanted = Notice::LimitReached {
        id: id.clone(),
        limit,
    };
    let waiting = async { while notices.recv().await.expect("it goes on") != wanted {} };
    let reported = tokio::time::timeout(TEST_TIMEOUT, waiting).await;
    assert!(reported.is_ok(), "{limit} was not reported");
}

/// Whether disks can be limited here; says so when not.
fn has_disks(world: &World) -> bool {
    let has = world
        .provider()
        .capabilities()
        .contains(&Capability::DiskLimit);
    if !has {
        let why = world.provider().degradations();
        skip(format_args!("this machine cannot limit disks: {why:?}"));
    }
    has
}

/// The loop device of a sandbox, where it has one.
struct Device {
    number: u32,
    file: (u64, u64),
}

impl Device {
    fn of(world: &World, id: &SandboxId) -> Option<Self> {
        let dir = world.box_dir(id);
        let meta = std::fs::read(dir.join("meta.json")).unwrap();
        let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
        let number = meta["disk"]["held_by"]["loop"].as_u64()?;
        let about = std::fs::metadata(dir.join("disk.ext4")).unwrap();
        Some(Self {
            number: u32::try_from(number).unwrap(),
            file: (about.dev(), about.ino()),
        })
    }

    fn stands(&self) -> bool {
        stacyvm_sys::loop_device::backing(self.number) == Some(self.file)
    }
}

async fn gone(device: Option<&Device>) {
    if let Some(device) = device {
        // The kernel takes it away a moment after its last user.
        eventually("the loop device has gone", || !device.stands()).await;
    }
}

/// Fills a place until nothing goes in any more; what the writer said.
async fn filled(sandbox: &Sandbox, path: &str) -> String {
    let script = format!("head -c 200000000 /dev/zero 2>&1 >{path} | cat; echo; stat -c %s {path}");
    sandbox.sh(&script).await.ok()
}

#[tokio::test]
async fn a_disk_is_full_at_its_limit_and_says_so() {
    need_root!();
    let world = World::start().await;
    if !has_disks(&world) {
        return;
    }
    let mut notices = world.provider().notices().unwrap();
    let sandbox = world.spawn_with(|spec| spec.disk_mb = Some(32)).await;
    let device = Device::of(&world, &sandbox.id);
    assert!(device.as_ref().is_none_or(Device::stands));
    let shown = sandbox.sh("df -k / | awk 'NR==2 {print $2}'").await.ok();
    let shown: u64 = shown.parse().unwrap();
    assert!(
        (30 << 10..=33 << 10).contains(&shown),
        "df shows {shown} KiB"
    );

    // One limit for all places that are written to, together.
    sandbox
        .sh("head -c 10000000 /dev/zero > /tmp/first")
        .await
        .ok();
    let said = filled(&sandbox, "/workspace/hog").await;
    assert!(
        said.contains("No space left") || said.contains("quota"),
        "{said}"
    );
    let size: u64 = said.lines().last().unwrap().parse().unwrap();
    assert!((10 << 20..25 << 20).contains(&size), "{size} bytes went in");
    let sizes = "echo x > /var/tmp/more || echo x > /srv/more || echo refused";
    assert_eq!(
        sandbox.sh(&format!("({sizes}) 2>/dev/null")).await.ok(),
        "refused"
    );
    let refused = sandbox.write("/workspace/new", &"y".repeat(500_000)).await;
    match refused.unwrap_err() {
        OpError::Limit(message) => assert!(message.contains("disk full"), "{message}"),
        other => panic!("{other:?}"),
    }
    limit_is_reported(&mut notices, &sandbox.id, "disk").await;
    let stats = world.provider().stats(&sandbox.id).await.unwrap();
    assert_eq!(stats.disk_limit_bytes, 32 << 20);
    assert!(
        (28 << 20..=33 << 20).contains(&stats.disk_bytes),
        "{stats:?}"
    );

    // What is deleted is room again.
    sandbox
        .sh("rm /workspace/hog; echo fits > /workspace/new")
        .await
        .ok();
    assert_eq!(sandbox.read("/workspace/new").await.unwrap(), b"fits\n");
    world.destroy(&sandbox).await;
    gone(device.as_ref()).await;
    world.finish().await;
}

#[tokio::test]
async fn a_neighbour_without_a_limit_is_not_concerned() {
    need_root!();
    let world = World::start().await;
    if !has_disks(&world) {
        return;
    }
    let tight = world.spawn_with(|spec| spec.disk_mb = Some(16)).await;
    let free = world.spawn().await;
    let said = filled(&tight, "/workspace/hog").await;
    assert!(
        said.contains("No space left") || said.contains("quota"),
        "{said}"
    );
    free.sh("head -c 40000000 /dev/zero > /workspace/big")
        .await
        .ok();
    let stats = world.provider().stats(&free.id).await.unwrap();
    assert_eq!(stats.disk_limit_bytes, 0);
    assert!(stats.disk_bytes >= 40_000_000, "{stats:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_limited_disk_outlives_the_server_and_ends_with_its_sandbox() {
    need_root!();
    let mut world = World::start().await;
    if !has_disks(&world) {
        return;
    }
    let sandbox = world.spawn_with(|spec| spec.disk_mb = Some(32)).await;
    sandbox.sh("echo kept > /workspace/file").await.ok();
    let device = Device::of(&world, &sandbox.id);
    world.restart().await;
    let ops = world.provider().open(&sandbox.id).await.unwrap();
    let sandbox = Sandbox {
        id: sandbox.id,
        ops,
    };
    assert_eq!(sandbox.sh("cat /workspace/file").await.ok(), "kept");
    let said = filled(&sandbox, "/workspace/hog").await;
    assert!(
        said.contains("No space left") || said.contains("quota"),
        "{said}"
    );
    let stats = world.provider().stats(&sandbox.id).await.unwrap();
    assert_eq!(stats.disk_limit_bytes, 32 << 20);

    // Ended from outside, while no provider removes anything.
    let pid = world.provider().first_process(&sandbox.id).unwrap();
    crate::life::kill(pid);
    gone(device.as_ref()).await;
    world.finish().await;
}

#[tokio::test]
async fn a_sandbox_that_was_not_made_leaves_no_disk() {
    need_root!();
    let world = World::start().await;
    if !has_disks(&world) {
        return;
    }
    let mut spec = crate::support::spec();
    spec.disk_mb = Some(32);
    // Found out by the agent only, when all else is done.
    spec.user = Some("nobody-of-this-name".to_owned());
    assert!(world.provider().create(&spec).await.is_err());
    spec.user = None;
    spec.disk_mb = Some(u64::MAX >> 20);
    assert!(world.provider().create(&spec).await.is_err());
    let data = std::fs::canonicalize(&world.config.data_dir).unwrap();
    let ours = || {
        std::fs::read_dir("/sys/block")
            .unwrap()
            .flatten()
            .filter_map(|entry| {
                std::fs::read_to_string(entry.path().join("loop/backing_file")).ok()
            })
            .any(|file| file.contains(data.to_str().unwrap()))
    };
    eventually("no loop device is left", || !ours()).await;
    world.finish().await;
}

/// A file of one of the sandbox's groups, whichever has it.
fn group_file(world: &World, id: &SandboxId, names: &[&str]) -> Option<(PathBuf, String)> {
    let groups = world.cgroups(id);
    names
        .iter()
        .flat_map(|name| groups.iter().map(move |group| group.join(name)))
        .find_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?)))
}

#[tokio::test]
async fn a_part_of_a_core_is_a_part_of_a_core() {
    need_root!();
    let world = World::start().await;
    let tenth = Vcpus::from_cores(0.1).unwrap();
    let sandbox = world.spawn_with(|spec| spec.vcpus = tenth).await;
    let files = ["cpu.cfs_quota_us", "cpu.max"];
    let Some((path, quota)) = group_file(&world, &sandbox.id, &files) else {
        return skip("no cpu controller");
    };
    assert_eq!(quota.split_whitespace().next(), Some("10000"), "{path:?}");
    let stats = world.provider().stats(&sandbox.id).await.unwrap();
    assert!((stats.cpu_limit - 0.1).abs() < 1e-9, "{stats:?}");
    // Counted by the kernel: how often it had to wait for its next share.
    let throttled = || {
        let text = std::fs::read_to_string(path.with_file_name("cpu.stat")).unwrap();
        let line = text.lines().find(|line| line.starts_with("nr_throttled"));
        let count = line.unwrap().split(' ').nth(1).unwrap();
        count.parse::<u64>().unwrap()
    };
    let mut busy = command(["sh", "-c", "while :; do :; done"]);
    busy.timeout = Some(Duration::from_secs(1));
    sandbox.run(busy).await;
    eventually("it was held back", || throttled() >= 2).await;
    world.finish().await;
}

#[tokio::test]
async fn processes_and_memory_that_are_refused_are_reported() {
    need_root!();
    let world = World::start().await;
    let mut notices = world.provider().notices().unwrap();
    let forks = world.spawn_with(|spec| spec.pids_limit = 24).await;
    let hog = world.spawn_with(|spec| spec.memory_mb = 64).await;
    let mut bomb = command(["bash", "-c", ":(){ :|:& };:; wait"]);
    bomb.timeout = Some(Duration::from_secs(1));
    bomb.kill_orphans = true;
    forks.run(bomb).await;
    limit_is_reported(&mut notices, &forks.id, "pids").await;
    let stats = world.provider().stats(&forks.id).await.unwrap();
    assert!(stats.pids_limit == 24 && stats.pids <= 24, "{stats:?}");

    let outcome = hog
        .python("blocks = []\nwhile True: blocks.append(bytearray(1 << 20))")
        .await;
    assert_eq!(outcome.exit.reason, ExitReason::Oom, "{outcome:?}");
    limit_is_reported(&mut notices, &hog.id, "memory").await;
    let stats = world.provider().stats(&hog.id).await.unwrap();
    assert!(stats.oom_kills >= 1, "{stats:?}");
    assert_eq!(stats.mem_limit_bytes, 64 << 20);
    // It lost a process, not its first one.
    assert_eq!(hog.sh("echo alive").await.ok(), "alive");
    world.finish().await;
}

#[tokio::test]
async fn swap_is_limited_with_memory_where_the_kernel_can() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn_with(|spec| spec.memory_mb = 64).await;
    let v1 = group_file(&world, &sandbox.id, &["memory.memsw.limit_in_bytes"]);
    let v2 = group_file(&world, &sandbox.id, &["memory.swap.max"]);
    match (v1, v2) {
        (Some((_, both)), _) => assert_eq!(both.trim(), (64 << 20).to_string()),
        (None, Some((_, swap))) => assert_eq!(swap.trim(), "0"),
        (None, None) => skip("the kernel does not account for swap"),
    }
    world.finish().await;
}

#[tokio::test]
async fn open_files_end_at_the_limit_and_it_cannot_be_raised() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn_with(|spec| spec.open_files = 100).await;
    let code = r"
import os, resource
files = []
try:
    while True: files.append(os.open('/dev/null', os.O_RDONLY))
except OSError as error:
    print(len(files), os.strerror(error.errno))
for file in files[:10]: os.close(file)
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    print('raised')
except (ValueError, OSError, PermissionError):
    print('refused')
";
    for user in ["1000", "0"] {
        let said = sandbox.python_as(user, code).await.ok();
        let (count, rest) = said.split_once(' ').unwrap();
        assert!((90..100).contains(&count.parse().unwrap()), "{said}");
        assert_eq!(rest, "Too many open files\nrefused");
    }
    assert_eq!(sandbox.sh("echo alive").await.ok(), "alive");
    world.finish().await;
}

#[tokio::test]
async fn reading_is_held_back_where_a_speed_is_set() {
    need_root!();
    let world = World::with(|config, _| config.io.read_bps = 1 << 20).await;
    let sandbox = world.spawn().await;
    let files = ["blkio.throttle.read_bps_device", "io.max"];
    let found = group_file(&world, &sandbox.id, &files);
    let degraded = world.provider().degradations();
    let Some((path, line)) = found.filter(|(_, line)| line.contains("1048576")) else {
        assert!(
            degraded
                .iter()
                .any(|said| said.contains("input and output")),
            "not limited, and nobody says so: {degraded:?}"
        );
        return skip(format_args!("reading is not held back: {degraded:?}"));
    };
    assert!(line.contains(':'), "{path:?}: {line}");
    let make = "head -c 6291456 /dev/urandom | dd of=/workspace/file bs=1M oflag=direct iflag=fullblock status=none";
    sandbox.sh(make).await.ok();
    // It takes five seconds and more; a machine that is busy only makes it longer.
    let mut read = command([
        "dd",
        "if=/workspace/file",
        "of=/dev/null",
        "bs=64k",
        "iflag=direct",
        "status=none",
    ]);
    read.timeout = Some(Duration::from_secs(2));
    let outcome = sandbox.run(read).await;
    assert_eq!(outcome.exit.reason, ExitReason::Timeout, "{outcome:?}");
    world.finish().await;
}
