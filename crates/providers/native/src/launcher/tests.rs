//! The life of a launcher process, with shell scripts in the place of the program: what counts
//! here is how its start, its silence and its death are taken.

use std::task::Poll;

use rustix::process::{Pid, Signal, kill_process};
use stacyvm_launcher::control::Limits;

use super::*;

/// Longer than anything here takes on a loaded machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A program that runs `script`, and the directory that holds it.
fn program(script: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("launcher");
    let text = dir.path().join("text");
    std::fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
    // By another process: a child that some other thread forks off while the program is written
    // would keep it busy, and what is busy cannot be started.
    let install = ["-m", "755", "-T", "--"];
    let mut copying = std::process::Command::new("install");
    let copied = copying.args(install).arg(&text).arg(&path).status();
    assert!(copied.unwrap().success());
    (dir, path)
}

fn request() -> Box<LaunchRequest> {
    Box::new(LaunchRequest {
        seq: 0,
        id: "sb-00000001".to_owned(),
        disk: false,
        box_dir: "/nowhere".into(),
        overlays: Vec::new(),
        read_only_rootfs: false,
        id_base: 0,
        id_count: 0,
        uid: 0,
        gid: 0,
        limits: Limits {
            memory_bytes: 1,
            vcpus: 1.0,
            pids: 1,
            open_files: 1,
            io: None,
        },
        cgroup_parent: String::new(),
        network: None,
    })
}

async fn launch(launchers: &Launchers) -> Result<(Launched, OwnedFd), LaunchError> {
    let (listener, status) = rustix::pipe::pipe().unwrap();
    launchers.launch(request(), vec![listener, status]).await
}

async fn pid_other_than(launchers: &Launchers, old: u32) -> u32 {
    let found = async {
        loop {
            match launchers.pids()[..] {
                [pid] if pid != old => return pid,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, found)
        .await
        .expect("no new launcher was started")
}

/// Kills the launcher `current`, which has a launch in hand, and says how that ended. The kill may
/// win against the send; then the launch waits for the next launcher, which never answers either.
/// Only a launch that was sent must fail, so it goes on until one was.
async fn lose<T>(
    launchers: &Launchers,
    mut current: u32,
    in_flight: tokio::task::JoinHandle<T>,
) -> T {
    while !in_flight.is_finished() {
        let pid = Pid::from_raw(current.cast_signed()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        current = pid_other_than(launchers, current).await;
    }
    in_flight.await.unwrap()
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error_at_once() {
    assert!(Launchers::start(Path::new("/nowhere/launcher"), 1).is_err());
}

#[tokio::test]
async fn a_launcher_has_no_environment_and_ends_with_its_socket() {
    let (dir, path) = program("env > \"$(dirname \"$0\")/env\"; exec sleep 60");
    let launchers = Launchers::start(&path, 1).unwrap();
    let pid = launchers.pids()[0];
    let seen = dir.path().join("env");
    let written = async {
        while std::fs::read_to_string(&seen)
            .unwrap_or_default()
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, written).await.unwrap();
    let env = std::fs::read_to_string(&seen).unwrap();
    assert!(!env.contains("HOME=") && !env.contains("CARGO"), "{env}");

    // This one does not look at its socket, so it must be killed.
    launchers.close().await;
    assert!(stacyvm_sys::proc::start_ticks(pid.cast_signed()).is_none());
    assert!(matches!(
        launch(&launchers).await,
        Err(LaunchError::NotRunning)
    ));
}

#[tokio::test]
async fn launches_in_the_hands_of_a_dying_launcher_fail_and_another_one_is_started() {
    let (_dir, path) = program("exec cat");
    let launchers = Arc::new(Launchers::start(&path, 1).unwrap());
    let current = launchers.pids()[0];
    let in_flight = tokio::spawn({
        let launchers = launchers.clone();
        async move { launch(&launchers).await }
    });
    let result = lose(&launchers, current, in_flight).await;
    assert!(matches!(result, Err(LaunchError::Lost)), "{result:?}");
    launchers.close().await;
}

#[tokio::test]
async fn a_launch_that_comes_just_after_a_launchers_end_waits_for_the_next_one() {
    let (_dir, path) = program("exec cat");
    let launchers = Arc::new(Launchers::start(&path, 1).unwrap());
    let first = launchers.pids()[0];
    // It has ended, and no task has run since to notice it.
    if let State::Running(connection) = &*launchers.all[0].current.borrow() {
        connection.close();
    }
    assert_eq!(launchers.pids(), [first]);
    let mut launching = Box::pin({
        let launchers = launchers.clone();
        async move { launch(&launchers).await }
    });
    // Asked at once, before the supervisor has its turn.
    let waits =
        std::future::poll_fn(|context| Poll::Ready(launching.as_mut().poll(context).is_pending()));
    assert!(waits.await, "it was refused");
    let in_flight = tokio::spawn(launching);
    let second = pid_other_than(&launchers, first).await;
    // It was sent to the second, which ends with it in hand.
    let result = lose(&launchers, second, in_flight).await;
    assert!(matches!(result, Err(LaunchError::Lost)), "{result:?}");
    launchers.close().await;
}
