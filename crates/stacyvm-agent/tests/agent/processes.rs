//! Trees of processes: what ends with a command and what outlives it.

use std::time::Duration;

use stacyvm_agent_client::{ExecSpec, OnDisconnect};
use stacyvm_types::ExitReason;

use crate::harness::{DEADLINES, TestAgent, alive, finish, pid_in, sh, soon, until, until_gone};

/// A daemon that forks twice and leaves session, parent and group, and then writes its process id
/// into `file`.
fn daemon(file: &str) -> String {
    format!("(setsid sh -c '(echo $$ > {file}.shell; exec sleep 1000) & echo $! > {file}' &)")
}

#[tokio::test]
async fn a_timeout_kills_the_whole_tree_with_its_daemons() {
    let sandbox = TestAgent::new().await;
    let script = format!(
        "rm -f daemon; {}; sleep 1000 & echo $! > child; while [ ! -s daemon ]; do sleep 0.01; done; touch ready; sleep 1000",
        daemon("daemon")
    );
    let workspace = sandbox.root().join("workspace");
    // The first deadline that lets a slow machine build the tree counts.
    for timeout in DEADLINES {
        let spec = ExecSpec {
            timeout: Some(timeout),
            ..sh(&script)
        };
        let finished = finish(sandbox.agent.exec(spec).await.unwrap()).await;
        assert_eq!(
            (finished.code(), finished.exit.reason),
            (137, ExitReason::Timeout)
        );
        if workspace.join("ready").exists() {
            break;
        }
    }
    assert!(workspace.join("ready").exists(), "the tree never stood");
    assert!(!alive(pid_in(&workspace.join("daemon")).await));
    assert!(!alive(pid_in(&workspace.join("child")).await));
}

#[tokio::test]
async fn a_background_child_lives_on_and_may_write() {
    let sandbox = TestAgent::new().await;
    let script = "(while [ ! -e go ]; do sleep 0.02; done; \
                   head -c 1000000 /dev/zero; echo; echo late words; touch wrote; exec sleep 1000) & echo $! > child; echo started";
    let finished = sandbox.sh(script).await;
    assert_eq!((finished.code(), &*finished.stdout), (0, "started\n"));
    let workspace = sandbox.root().join("workspace");
    let child = pid_in(&workspace.join("child")).await;
    std::fs::write(workspace.join("go"), "").unwrap();
    until("the child has written all of it", async || {
        workspace.join("wrote").exists().then_some(())
    })
    .await;
    assert!(alive(child));
    until("its words are in the log", async || {
        let lines = sandbox.agent.logs(1).await.unwrap();
        (lines == ["late words"]).then_some(())
    })
    .await;
    drop(sandbox);
    until_gone(child).await;
}

#[tokio::test]
async fn orphans_die_when_that_was_asked_for() {
    let sandbox = TestAgent::new().await;
    let script = format!(
        "{}; sleep 1000 & echo $! > child; while [ ! -s daemon ]; do sleep 0.01; done; exit 3",
        daemon("daemon")
    );
    let spec = ExecSpec {
        kill_orphans: true,
        ..sh(&script)
    };
    let finished = finish(sandbox.agent.exec(spec).await.unwrap()).await;
    assert_eq!(finished.code(), 3);
    let workspace = sandbox.root().join("workspace");
    assert!(!alive(pid_in(&workspace.join("daemon")).await));
    assert!(!alive(pid_in(&workspace.join("child")).await));
}

#[tokio::test]
async fn an_abandoned_command_dies_and_a_detached_one_does_not() {
    let sandbox = TestAgent::new().await;
    let workspace = sandbox.root().join("workspace");
    let script = "sleep 1000 & echo $! > $FILE; wait";
    let mut specs = [OnDisconnect::Kill, OnDisconnect::Detach].map(|on_disconnect| ExecSpec {
        on_disconnect,
        ..sh(script)
    });
    specs[0].env.insert("FILE".into(), "dies".into());
    specs[1].env.insert("FILE".into(), "lives".into());
    let [dies, lives] = specs;
    // Abandoned by dropping the session, and by losing the connection.
    let dropped = sandbox.agent.exec(dies.clone()).await.unwrap();
    let first = pid_in(&workspace.join("dies")).await;
    drop(dropped);
    until_gone(first).await;
    std::fs::remove_file(workspace.join("dies")).unwrap();
    let client = sandbox.another_client().await;
    let sessions = (
        client.exec(dies).await.unwrap(),
        client.exec(lives).await.unwrap(),
    );
    let second = pid_in(&workspace.join("dies")).await;
    let survivor = pid_in(&workspace.join("lives")).await;
    drop((client, sessions));
    until_gone(second).await;
    assert!(alive(survivor));
    assert!(sandbox.agent.ping().await.is_ok());
}

#[tokio::test]
async fn fifty_commands_at_once() {
    let sandbox = TestAgent::new().await;
    let mut running = tokio::task::JoinSet::new();
    for number in 0..50 {
        let agent = sandbox.agent.clone();
        running.spawn(async move {
            let script = format!("echo {number}; sleep 0.1; exit {number}");
            let finished = finish(agent.exec(sh(&script)).await.unwrap()).await;
            assert_eq!(finished.code(), number);
            assert_eq!(finished.stdout, format!("{number}\n"));
        });
    }
    let mut count = 0;
    while let Some(joined) = soon(running.join_next()).await {
        joined.unwrap();
        count += 1;
    }
    assert_eq!(count, 50);
}

#[tokio::test]
async fn orphans_are_reaped() {
    let sandbox = TestAgent::new().await;
    let script = "i=0; while [ $i -lt 200 ]; do (setsid true &); i=$((i+1)); done";
    assert_eq!(sandbox.sh(script).await.code(), 0);
    let children = format!("/proc/{pid}/task/{pid}/children", pid = sandbox.pid());
    until("no child of the agent is left", async || {
        let left = std::fs::read_to_string(&children).unwrap();
        left.trim().is_empty().then_some(())
    })
    .await;
    let usage = sandbox.agent.usage().await.unwrap();
    assert_eq!(usage.pids, 0);
}

#[tokio::test]
async fn usage_counts_what_runs() {
    let sandbox = TestAgent::new().await;
    let session = sandbox
        .agent
        .exec(sh("sleep 1000 & sleep 1000"))
        .await
        .unwrap();
    until("three processes run", async || {
        let usage = sandbox.agent.usage().await.unwrap();
        (usage.pids == 3 && usage.mem_bytes > 0).then_some(())
    })
    .await;
    drop(session);
    let script = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
    sandbox.sh(script).await;
    assert!(sandbox.agent.usage().await.unwrap().cpu_nanos > 0);
}

#[tokio::test]
async fn a_shutdown_takes_everything_along() {
    let mut sandbox = TestAgent::new().await;
    let script = format!(
        "trap '' TERM; {}; touch ready; while :; do sleep 1; done",
        daemon("daemon")
    );
    let session = sandbox.agent.exec(sh(&script)).await.unwrap();
    let daemon = pid_in(&sandbox.root().join("workspace/daemon")).await;
    sandbox
        .agent
        .shutdown(Duration::from_millis(50))
        .await
        .unwrap();
    assert!(!alive(daemon));
    assert_eq!(
        finish(session).await.exit.reason,
        ExitReason::SandboxDestroyed
    );
    assert!(sandbox.exit_status().await.success());
    soon(sandbox.agent.closed()).await;
}
