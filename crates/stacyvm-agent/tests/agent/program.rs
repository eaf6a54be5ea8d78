//! The program's flags, and its duties as a first process.

use std::os::fd::AsRawFd as _;
use std::process::Command;

use bytes::Bytes;
use stacyvm_agent_client::{Agent, WriteOptions};
use stacyvm_testing::root_or_skip;
use stacyvm_types::{ExitReason, FileMode};
use tokio::sync::mpsc;

use crate::harness::{PROGRAM, TestAgent, until};

#[test]
fn flags_are_checked() {
    let output = Command::new(PROGRAM).arg("--version").output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("stacyvm-agent "));
    for wrong in [
        &[][..],
        &["--socket"],
        &["--uid", "x", "--socket", "/tmp/never"],
        &["--surprise"],
        &["--listen-fd", "99"],
    ] {
        let output = Command::new(PROGRAM).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("usage:"),
            "{wrong:?}"
        );
    }
}

#[test]
fn a_user_that_is_not_there_has_an_exit_code_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM)
        .arg("--root")
        .arg(directory.path())
        .arg("--socket")
        .arg(directory.path().join("agent.sock"))
        .args(["--user", "nobody-here"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[tokio::test]
async fn an_inherited_listener_is_served_and_not_handed_on() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir_all(root.join("workspace")).unwrap();
    let socket = directory.path().join("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let mut process = Command::new(PROGRAM)
        .args(["--listen-fd", &listener.as_raw_fd().to_string()])
        .arg("--root")
        .arg(&root)
        .spawn()
        .unwrap();
    drop(listener);
    let stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let agent = Agent::connect(stream, None).await.unwrap();
    let script = "ls -l /proc/self/fd";
    let session = agent.exec(crate::harness::sh(script)).await.unwrap();
    let finished = crate::harness::finish(session).await;
    assert!(!finished.stdout.contains("socket:"), "{}", finished.stdout);
    agent.shutdown(std::time::Duration::ZERO).await.unwrap();
    assert!(process.wait().unwrap().success());
}

#[tokio::test]
async fn a_kill_by_the_memory_limit_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let events = directory.path().join("memory.events");
    std::fs::write(&events, "low 0\noom 1\noom_kill 5\n").unwrap();
    let events = events.to_str().unwrap();
    let sandbox = TestAgent::started_by(&[PROGRAM], &["--memory-events", events], None).await;
    let finished = sandbox.sh("kill -KILL $$").await;
    assert_eq!(finished.exit.reason, ExitReason::Signal);
    // As the kernel does: it counts the kill, then the process is gone.
    let counted = format!("printf 'low 0\\noom 2\\noom_kill 6\\n' > {events}");
    let finished = sandbox.sh(&format!("{counted}; kill -KILL $$")).await;
    assert_eq!(
        (finished.code(), finished.exit.reason),
        (137, ExitReason::Oom)
    );
    let finished = sandbox.sh("exit 137").await;
    assert_eq!(finished.exit.reason, ExitReason::Exit);
}

#[tokio::test]
async fn files_belong_to_the_sandbox_user() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    if !root_or_skip() {
        return;
    }
    let sandbox =
        TestAgent::started_by(&[PROGRAM], &["--uid", "4321", "--gid", "4322"], None).await;
    let root = sandbox.root();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(root.parent().unwrap(), open).unwrap();
    chown(root.join("workspace"), Some(4321), Some(4322)).unwrap();
    let options = WriteOptions {
        mode: FileMode::FILE,
        parents: true,
    };
    let (queue, data) = mpsc::channel(1);
    queue.send(Ok(Bytes::from_static(b"mine"))).await.unwrap();
    drop(queue);
    sandbox
        .agent
        .write("deep/file", options, data)
        .await
        .unwrap();
    let made = std::fs::metadata(root.join("workspace/deep/file")).unwrap();
    assert_eq!((made.uid(), made.gid()), (4321, 4322));
    // The operation has the rights of that user, not of the agent.
    let refused = sandbox.agent.mkdir("/forbidden", FileMode::DIRECTORY).await;
    assert!(
        matches!(refused, Err(stacyvm_agent_client::OpError::Denied(_))),
        "{refused:?}"
    );
    // Long operations run on other threads, with the same rights.
    std::fs::create_dir_all(root.join("guarded/inner")).unwrap();
    let refused = sandbox.agent.remove("/guarded", true).await;
    assert!(
        matches!(refused, Err(stacyvm_agent_client::OpError::Denied(_))),
        "{refused:?}"
    );
    assert_eq!(sandbox.sh("id -u; id -g").await.stdout, "4321\n4322\n");
}

#[tokio::test]
async fn a_first_process_reaps_what_it_never_started() {
    if !root_or_skip() {
        return;
    }
    let launcher = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        PROGRAM,
    ];
    let mut sandbox = TestAgent::started_by(&launcher, &["--init"], None).await;
    let script = "i=0; while [ $i -lt 300 ]; do (setsid sh -c 'sleep 0.05 & exit' &); i=$((i+1)); done; echo $PPID";
    let finished = sandbox.sh(script).await;
    assert_eq!(
        finished.stdout, "1\n",
        "the agent should be the first process"
    );
    until("no zombie and no orphan is left", async || {
        let seen = sandbox.sh("ls /proc | grep -c '^[0-9]'").await;
        // The agent, the shell, ls and grep.
        (seen.stdout.trim().parse::<u32>().unwrap() <= 4).then_some(())
    })
    .await;
    assert_eq!(sandbox.agent.usage().await.unwrap().pids, 0);
    sandbox
        .agent
        .shutdown(std::time::Duration::ZERO)
        .await
        .unwrap();
    assert!(sandbox.exit_status().await.success());
}
