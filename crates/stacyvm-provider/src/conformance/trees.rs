//! What becomes of the processes that a command leaves.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use stacyvm_types::ExitReason;

use super::harness::{Harness, ensure_equal, eventually};
use super::sandbox::{Sandbox, finish, first_line, shell, tell};
use crate::ops::{ExecControl, ExecSpec, OnDisconnect};

/// A child, one in the background, and one that tried to get away by a session of its own and a
/// parent that is gone. Prints the three numbers.
const TREE: &str = "\
    sleep 600 & echo $! > a; \
    (sleep 600 & echo $! > b); \
    setsid sh -c 'echo $$ > c; exec sleep 600' & \
    until [ -s a ] && [ -s b ] && [ -s c ]; do sleep 0.02; done; \
    echo $(cat a b c); sleep 600";

async fn all_gone(sandbox: &Sandbox, pids: &str) -> Result<()> {
    for pid in pids.split_whitespace() {
        eventually("a process of the tree is gone", async || {
            Ok(!sandbox.lives(pid).await?)
        })
        .await?;
    }
    Ok(())
}

/// When the time is over nothing is left.
pub async fn a_timeout_kills_the_whole_tree(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    // The first that leaves a slow machine the time to grow the tree.
    for seconds in [2, 10, 50] {
        let spec = ExecSpec {
            timeout: Some(Duration::from_secs(seconds)),
            ..shell(&format!("rm -f a b c; {TREE}"))
        };
        let finished = sandbox.run(spec).await?;
        ensure_equal!(finished.exit.reason, ExitReason::Timeout);
        ensure_equal!(finished.exit.exit_code, 137);
        let pids = finished.text();
        if !pids.is_empty() {
            ensure_equal!(pids.split_whitespace().count(), 3);
            return all_gone(&sandbox, &pids).await;
        }
    }
    bail!("the tree never stood")
}

/// A client that drops its session takes the tree along.
pub async fn a_lost_client_kills_the_whole_tree(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let mut session = sandbox.ops.exec(shell(TREE)).await?;
    let pids = first_line(&mut session).await?;
    drop(session);
    all_gone(&sandbox, &pids).await
}

/// On request too.
pub async fn a_kill_reaches_the_whole_tree(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let mut session = sandbox.ops.exec(shell(TREE)).await?;
    let pids = first_line(&mut session).await?;
    tell(&session, ExecControl::Kill).await?;
    let finished = finish(session).await?;
    ensure_equal!(finished.exit.exit_code, 137);
    all_gone(&sandbox, &pids).await
}

/// A command that was to survive its client does.
pub async fn a_survivor_survives_its_client(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let spec = ExecSpec {
        on_disconnect: OnDisconnect::Detach,
        // It goes on printing: the want of a listener must neither stop nor kill it.
        ..shell("echo $$; while [ ! -e stop ]; do echo working; sleep 0.02; done; echo done > done")
    };
    let mut session = sandbox.ops.exec(spec).await?;
    let pid = first_line(&mut session).await?;
    drop(session);
    ensure!(sandbox.lives(&pid).await?, "it died with its client");
    sandbox.write("stop", "").await?;
    eventually("it works to its end", async || {
        Ok(sandbox.ops.stat("done").await.is_ok())
    })
    .await
}

/// `server &` returns at once, and the server stays.
pub async fn a_background_child_lives_on(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    // It holds the command's output open.
    let finished = sandbox.shell("sleep 600 & echo $!").await?;
    ensure_equal!(finished.exit.exit_code, 0);
    ensure!(finished.exit.duration < Duration::from_secs(300));
    let pid = finished.text();
    ensure!(sandbox.lives(&pid).await?, "the background child is gone");
    sandbox.say(&format!("kill {pid}")).await?;
    all_gone(&sandbox, &pid).await
}

/// Unless they are not wanted.
pub async fn orphans_are_killed_when_asked(harness: &mut dyn Harness) -> Result<()> {
    let sandbox = Sandbox::make(harness).await?;
    let spec = ExecSpec {
        kill_orphans: true,
        ..shell("sleep 600 & echo $!")
    };
    let finished = sandbox.run(spec).await?;
    ensure_equal!(finished.exit.exit_code, 0);
    ensure_equal!(finished.exit.reason, ExitReason::Exit);
    all_gone(&sandbox, &finished.text()).await
}
