//! The life of a launcher process, with shell scripts in the place of the program: what counts
//! here is how its start, its silence and its death are taken.

use std::os::unix::fs::PermissionsExt;

use rustix::process::{Pid, Signal, kill_process};
use stacyvm_launcher::control::Limits;

use super::*;

/// A program that runs `script`, and the directory that holds it.
fn program(script: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("launcher");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
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
    tokio::time::timeout(Duration::from_secs(20), found)
        .await
        .expect("no new launcher was started")
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
    tokio::time::timeout(Duration::from_secs(20), written)
        .await
        .unwrap();
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
    let (_dir, path) = program("exec sleep 60");
    let launchers = Arc::new(Launchers::start(&path, 1).unwrap());
    let first = launchers.pids()[0];
    let in_flight = tokio::spawn({
        let launchers = launchers.clone();
        async move { launch(&launchers).await }
    });
    let pid = Pid::from_raw(first.cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    // The kill may win against the send; then the launch waits for the next launcher, which never
    // answers either. Only a launch that was sent must fail.
    let second = pid_other_than(&launchers, first).await;
    if !in_flight.is_finished() {
        let pid = Pid::from_raw(second.cast_signed()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        pid_other_than(&launchers, second).await;
    }
    let result = tokio::time::timeout(Duration::from_secs(20), in_flight)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(result, Err(LaunchError::Lost)), "{result:?}");
    launchers.close().await;
}
