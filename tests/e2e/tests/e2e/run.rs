//! `stacyvm run`: a sandbox without a server.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::server::{Finished, bare_command, finish};
use crate::harness::{SOON, Server, eventually, host, need_root};

/// A directory for the data of runs without a server.
struct DataDirectory {
    directory: TempDir,
}

impl DataDirectory {
    fn new() -> Self {
        Self {
            directory: tempfile::Builder::new()
                .prefix("stacyvm-run-")
                .tempdir()
                .unwrap(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare_command(self.directory.path());
        command.arg("run").args(arguments).env(
            "STACYVM_SERVER_DATA_DIR",
            self.directory.path().join("data"),
        );
        command
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        finish(&mut self.command(arguments))
    }

    fn nothing_is_left(&self) {
        let data = self.directory.path().join("data");
        assert_eq!(host::boxes(&data).len(), 0, "a box directory is left");
        let text = self.directory.path().display().to_string();
        eventually("no process of the run is left", SOON, || {
            host::processes(&text).is_empty()
        });
        assert_eq!(host::mounts(&text), Vec::<String>::new());
    }
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        host::sweep(&self.directory.path().join("data"));
    }
}

#[test]
fn python_runs_and_its_sandbox_is_gone_afterwards() {
    need_root!();
    let place = DataDirectory::new();
    let finished = place.run(&[
        "--",
        "python3",
        "-c",
        "import os; print('hello from', os.getuid(), os.getcwd(), len(os.listdir('/proc')) < 1000)",
    ]);
    assert_eq!(finished.stdout, "hello from 1000 /workspace True\n");
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    place.nothing_is_left();
}

#[test]
fn the_exit_code_and_both_outputs_are_the_commands_own() {
    need_root!();
    let place = DataDirectory::new();
    let finished = place.run(&["--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(finished.code, Some(42));
    assert_eq!(finished.stdout, "out\n");
    assert!(finished.stderr.contains("err\n"), "{}", finished.stderr);

    assert_eq!(place.run(&["--", "sh", "-c", "kill -9 $$"]).code, Some(137));
    assert_eq!(place.run(&["--", "/no/such/program"]).code, Some(127));
    place.nothing_is_left();
}

#[test]
fn arguments_arrive_as_they_were_given() {
    need_root!();
    let place = DataDirectory::new();
    let finished = place.run(&["--", "printf", "[%s]", "a b", "$HOME", "'", "*", ""]);
    assert_eq!(finished.ok(), "[a b][$HOME]['][*][]");
}

#[test]
fn what_comes_in_at_standard_input_reaches_the_command() {
    need_root!();
    let place = DataDirectory::new();
    let mut child = place
        .command(&["--", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, &vec![b'x'; 300_000]).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "300000");
}

#[test]
fn it_works_beside_a_server_with_the_same_data() {
    need_root!();
    let server = Server::start();
    let id = server.spawn(serde_json::json!({}));
    let finished = server.cli(&["run", "--", "echo", "beside"]);
    assert_eq!(finished.ok(), "beside\n");
    assert_eq!(server.list(), [id.as_str()]);
    assert_eq!(server.exec(&id, "echo alive")["stdout"], "alive\n");
}

#[test]
fn an_interrupt_ends_the_command_and_the_sandbox() {
    need_root!();
    let place = DataDirectory::new();
    let mark = format!("86399.{}", std::process::id());
    let mut child = place
        .command(&["--", "sleep", &mark])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    // Exactly this one: our own child carries the argument too, and so does what it forks.
    eventually("the command runs", SOON, || {
        host::with_arguments(&["sleep", &mark]).len() == 1
    });
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut status = None;
    eventually("the run has ended", SOON, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_ne!(status.unwrap().code(), Some(0));
    place.nothing_is_left();
}
