//! The real program: a sandbox whose first process is the agent, spoken to over its socket.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stacyvm_agent_client::{Agent, ExecEvent, ExecSpec};
use stacyvm_launcher::control::ProbeReport;
use tokio::net::UnixStream;

use crate::can_launch;
use crate::support::{Fixture, Launcher, Sandbox};

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_stacyvm-launcher"))
}

/// What a command prints; it must succeed.
async fn output(agent: &Agent, argv: &[&str]) -> String {
    let spec = ExecSpec {
        argv: argv.iter().map(|&part| part.to_owned()).collect(),
        ..ExecSpec::default()
    };
    let mut session = agent.exec(spec).await.unwrap();
    let mut text = Vec::new();
    loop {
        match session.events.recv().await.expect("an exit ends it") {
            ExecEvent::Output(_, bytes) => text.extend_from_slice(&bytes),
            // A command that outlives its connection says where its output begins.
            ExecEvent::Resumed(_) => {}
            ExecEvent::End => unreachable!("the end of a look at output"),
            ExecEvent::Exit(exit) => {
                let text = String::from_utf8(text).unwrap();
                assert_eq!(exit.exit_code, 0, "{argv:?}: {text}");
                return text;
            }
        }
    }
}

async fn connect(home: &Fixture, id: &str) -> Agent {
    let stream = UnixStream::connect(home.box_dir(id).join("agent.sock"))
        .await
        .unwrap();
    Agent::connect(stream, None).await.unwrap()
}

fn launch(home: &Fixture, launcher: &mut Launcher, id: &str) -> Sandbox {
    let mut request = home.request(id, false, "");
    // As the provider leaves it: the launcher makes the layers.
    fs::remove_dir_all(request.box_dir.join("layers")).unwrap();
    let mut sandbox = launcher.launch(&mut request).unwrap();
    sandbox.set_up().unwrap();
    sandbox
}

#[tokio::test]
async fn the_agent_runs_commands_without_any_right() {
    if !can_launch() {
        return;
    }
    let home = Fixture::new("agent");
    let mut launcher = Launcher::start(&program(), &["--control-fd", "0"], None);
    let sandbox = launch(&home, &mut launcher, "agent");
    let agent = connect(&home, "agent").await;

    let script = include_str!("inside.py");
    let looked = ["/usr/bin/python3", "-c", script, "/workspace/facts.json"];
    output(&agent, &looked).await;
    let facts = home
        .box_dir("agent")
        .join("layers/0/upper/workspace/facts.json");
    let facts: Value = serde_json::from_slice(&fs::read(facts).unwrap()).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(facts["status"][set], "0000000000000000", "{set}");
    }
    assert_eq!(facts["status"]["Seccomp"], "2");
    assert_eq!(facts["status"]["NoNewPrivs"], "1");
    assert_eq!(facts["ids"][0], serde_json::json!([1000, 1000, 1000]));
    assert_eq!(facts["hostname"], "agent");
    for (call, errno) in facts["calls"].as_object().unwrap() {
        assert_eq!(errno, 1, "{call}");
    }

    // The agent itself: three capabilities, under the same filter, and nothing of its own to see.
    let status = output(&agent, &["/bin/cat", "/proc/1/status"]).await;
    for line in [
        "Name:\tstacyvm-agent",
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000000000e0",
        "CapEff:\t00000000000000e0",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} not in:\n{status}");
    }
    let name = output(&agent, &["/bin/cat", "/proc/1/cmdline"]).await;
    assert_eq!(name.trim_end_matches('\0'), "stacyvm-agent");
    let peek = "cd /proc/1; for action in 'cat environ' 'cat maps' 'cat mem' 'ls fd/' 'ls root/' \
                'ls cwd/' 'readlink -v exe'; do $action 2>&1; done; true";
    let peek = output(&agent, &["/bin/sh", "-c", peek]).await;
    assert_eq!(peek.lines().count(), 7, "{peek}");
    for line in peek.lines() {
        assert!(line.contains("Permission denied"), "{line}");
    }
    drop(sandbox);
}

#[tokio::test]
async fn nothing_of_the_launcher_stays_in_the_process() {
    if !can_launch() {
        return;
    }
    let home = Fixture::new("clean");
    let mut launcher = Launcher::start(&program(), &[], None);
    // Names of earlier sandboxes are not to be found in later ones.
    drop(launch(&home, &mut launcher, "earlier"));
    let sandbox = launch(&home, &mut launcher, "later");
    // It stays, so that the agent has nothing to close while it is looked at.
    let agent = connect(&home, "later").await;
    agent.ping().await.unwrap();
    let process = PathBuf::from(format!("/proc/{}", sandbox.launched.pid));
    let environment = fs::read(process.join("environ")).unwrap();
    assert!(environment.iter().all(|byte| *byte == 0), "{environment:?}");
    let launchers = fs::read_link(format!("/proc/{}/fd/0", launcher.process.id())).unwrap();
    let mut looked_at = 0;
    for entry in fs::read_dir(process.join("fd")).unwrap() {
        // One may be closed between the list and the look.
        let Ok(target) = fs::read_link(entry.unwrap().path()) else {
            continue;
        };
        looked_at += 1;
        assert_ne!(target, launchers, "the control socket");
        let name = target.to_str().unwrap();
        let known = ["/dev/null", "socket:[", "anon_inode:[", "pipe:["];
        // The agent holds places of the sandbox and its memory counter open.
        let own = name == "/" || name.starts_with("/proc/") || name.contains("memory.");
        assert!(
            own || known.iter().any(|start| name.starts_with(start)),
            "{name}"
        );
    }
    assert!(looked_at >= 5, "{looked_at}");
    assert_eq!(fs::read_link(process.join("cwd")).unwrap(), Path::new("/"));
}

#[tokio::test]
async fn a_sandbox_outlives_its_launcher_and_still_answers() {
    if !can_launch() {
        return;
    }
    let home = Fixture::new("outlives");
    let mut launcher = Launcher::start(&program(), &[], None);
    let sandbox = launch(&home, &mut launcher, "outlives");
    let agent = connect(&home, "outlives").await;
    let Launcher {
        ref mut process, ..
    } = launcher;
    process.kill().unwrap();
    process.wait().unwrap();
    agent.ping().await.unwrap();
    let again = connect(&home, "outlives").await;
    assert_eq!(
        output(&again, &["/bin/echo", "still here"]).await,
        "still here\n"
    );
    drop(sandbox);
}

#[test]
fn the_launcher_ends_when_its_socket_closes() {
    if !can_launch() {
        return;
    }
    let mut launcher = Launcher::start(&program(), &[], None);
    launcher.hang_up();
    assert!(launcher.process.wait().unwrap().success());
}

#[test]
fn a_probe_launches_and_leaves_nothing() {
    if !can_launch() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(program())
        .arg("--probe")
        .arg(place.path())
        .output()
        .unwrap();
    let report: ProbeReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report.failure, None, "{report:?}");
    assert!(output.status.success());
    assert!(report.id_ranges && report.seccomp);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);

    let output = std::process::Command::new(program())
        .args(["--probe", "/proc/nowhere"])
        .output()
        .unwrap();
    let report: ProbeReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report.failure.unwrap().step, "make the trial's directory");
    assert!(!output.status.success());
}
