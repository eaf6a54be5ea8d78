//! Programs that try to take more than they were given.

use std::time::Duration;

use stacyvm_provider::ops::TtySize;
use stacyvm_provider::prelude::*;
use stacyvm_types::ExitReason;

use crate::support::{World, command, need_root};

#[tokio::test]
async fn a_fork_bomb_stops_at_the_limit_and_the_sandbox_lives_on() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn_with(|spec| spec.pids_limit = 40).await;
    let bomb = r"
import os, time
made = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(600)
        made += 1
    except OSError:
        print(made, flush=True)
        time.sleep(600)
";
    let mut made: Option<u32> = None;
    // The first that leaves a slow machine the time to come to the limit.
    for seconds in [3, 12, 40] {
        let mut spec = command(["python3", "-c", bomb]);
        spec.timeout = Some(Duration::from_secs(seconds));
        let outcome = sandbox.run(spec).await;
        assert_eq!(outcome.exit.reason, ExitReason::Timeout, "{outcome:?}");
        made = outcome.stdout.trim().parse().ok();
        if made.is_some() {
            break;
        }
    }
    assert!(
        made.is_some_and(|made| (10..40).contains(&made)),
        "{made:?}"
    );

    // The usual fork bomb.
    let mut spec = command(["bash", "-c", ":(){ :|:& };:; wait"]);
    spec.timeout = Some(Duration::from_secs(2));
    spec.kill_orphans = true;
    sandbox.run(spec).await;
    assert!(world.provider().stats(&sandbox.id).await.unwrap().pids <= 40);
    assert_eq!(sandbox.sh("echo alive").await.ok(), "alive");
    world.finish().await;
}

#[tokio::test]
async fn a_memory_bomb_dies_alone_and_is_named() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn_with(|spec| spec.memory_mb = 64).await;
    let outcome = sandbox
        .python("blocks = []\nwhile True: blocks.append(bytearray(1 << 20))")
        .await;
    assert_eq!(outcome.exit.reason, ExitReason::Oom, "{outcome:?}");
    assert_eq!(outcome.exit.exit_code, 137);
    assert_eq!(sandbox.sh("echo alive").await.ok(), "alive");
    world.finish().await;
}

#[tokio::test]
async fn memory_in_files_counts_too() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn_with(|spec| spec.memory_mb = 64).await;
    let outcome = sandbox
        .sh("head -c 400000000 /dev/zero > /dev/shm/big")
        .await;
    assert_ne!(outcome.exit.exit_code, 0, "{outcome:?}");
    assert_eq!(
        sandbox.sh("rm -f /dev/shm/big; echo alive").await.ok(),
        "alive"
    );
    world.finish().await;
}

#[tokio::test]
async fn the_agent_cannot_be_killed_or_stopped_from_inside() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    // Its own root may ask the agent to end (2 and 15), as with any init; no process may kill it.
    for (user, signals) in [("user", "1 2 3 9 15 19 20"), ("root", "1 3 9 19 20")] {
        // `kill` is the shell's own here, and -1 is everybody but the sender and the first process:
        // so one shell can go through all of them, and nothing but the agent is left to be hit.
        let script = format!(
            "for s in {signals}; do sleep 600 & kill -$s 1; kill -$s -1; done 2>/dev/null; echo sent"
        );
        assert_eq!(sandbox.sh_as(user, &script).await.ok(), "sent", "{user}");
        assert_eq!(sandbox.sh("echo alive").await.ok(), "alive", "{user}");
    }
    world.finish().await;
}

#[tokio::test]
async fn keys_cannot_be_pushed_into_a_terminal() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    for user in ["user", "root"] {
        let code = "import fcntl, os\ntry:\n  fcntl.ioctl(0, 0x5412, b'x')\n  print('pushed')\nexcept OSError as e: print(os.isatty(0), 'refused')";
        let mut spec = command(["python3", "-c", code]);
        spec.tty = Some(TtySize { cols: 80, rows: 24 });
        spec.user = stacyvm_provider::ops::Credentials::User(user.to_owned());
        assert_eq!(sandbox.run(spec).await.ok(), "True refused", "{user}");
    }
    world.finish().await;
}

#[tokio::test]
async fn open_files_and_zombies_of_one_sandbox_hurt_nobody() {
    need_root!();
    let world = World::start().await;
    let (one, other) = (world.spawn().await, world.spawn().await);
    let code = "import os\nf = []\ntry:\n  while True: f.append(os.open('/dev/null', 0))\nexcept OSError as e: print(e.strerror)";
    assert_eq!(one.python(code).await.ok(), "Too many open files");
    // Children whose parent ends without waiting for them: the first process must reap them.
    let code = "import os\nfor i in range(60):\n  if os.fork() == 0:\n    if os.fork() == 0: os._exit(0)\n    os._exit(0)\n  os.wait()\nprint('done')";
    for _ in 0..4 {
        assert_eq!(one.python(code).await.ok(), "done");
    }
    assert_eq!(other.sh("echo alive").await.ok(), "alive");
    world.finish().await;
}
