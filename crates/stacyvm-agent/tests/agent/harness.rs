//! An agent per test, its client, and waiting for conditions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stacyvm_agent_client::{
    Agent, Configure, ExecEvent, ExecExit, ExecSession, ExecSpec, OnDisconnect, OpError,
};
use stacyvm_types::OutputStream;
use tempfile::TempDir;
use tokio::net::UnixStream;

/// How long anything may take before a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Timeouts for a command that must have reached some point before its timeout: the first that is long
/// enough on this machine counts.
pub(crate) const DEADLINES: [Duration; 3] = [
    Duration::from_millis(600),
    Duration::from_secs(5),
    Duration::from_secs(40),
];

/// The agent's program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_stacyvm-agent");

/// A running agent; it ends with this value.
pub(crate) struct TestAgent {
    directory: TempDir,
    process: Child,
    pub(crate) agent: Agent,
}

impl TestAgent {
    pub(crate) async fn new() -> Self {
        Self::with(None).await
    }

    pub(crate) async fn with(configure: Option<Configure>) -> Self {
        Self::started_by(&[PROGRAM], &[], configure).await
    }

    /// With a command line that begins with `launcher` and ends with `flags`.
    pub(crate) async fn started_by(
        launcher: &[&str],
        flags: &[&str],
        configure: Option<Configure>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("root/workspace")).unwrap();
        let socket = directory.path().join("agent.sock");
        let process = Command::new(launcher[0])
            .args(&launcher[1..])
            .arg("--socket")
            .arg(&socket)
            .arg("--root")
            .arg(directory.path().join("root"))
            .args(flags)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let agent = until("the agent answers", async || {
            let stream = UnixStream::connect(&socket).await.ok()?;
            Agent::connect(stream, configure.clone()).await.ok()
        })
        .await;
        Self {
            directory,
            process,
            agent,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// The agent's own process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Kills the agent; processes that it started are left.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// How the agent ended.
    pub(crate) async fn exit_status(&mut self) -> std::process::ExitStatus {
        let process = &mut self.process;
        until("the agent ends", async || process.try_wait().unwrap()).await
    }

    pub(crate) async fn another_client(&self) -> Agent {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        Agent::connect(stream, None).await.unwrap()
    }

    pub(crate) async fn sh(&self, script: &str) -> Finished {
        finish(self.agent.exec(sh(script)).await.unwrap()).await
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(Some(_))) {
            return;
        }
        // By SIGTERM, so that it ends the processes that it started.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

/// A finished command.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: ExecExit,
}

impl Finished {
    pub(crate) fn code(&self) -> i32 {
        self.exit.exit_code
    }
}

pub(crate) fn argv(arguments: &[&str]) -> ExecSpec {
    ExecSpec {
        argv: arguments.iter().map(ToString::to_string).collect(),
        env: BTreeMap::new(),
        on_disconnect: OnDisconnect::Kill,
        ..ExecSpec::default()
    }
}

pub(crate) fn sh(script: &str) -> ExecSpec {
    argv(&["sh", "-c", script])
}

/// Follows a command to its end.
pub(crate) async fn finish(mut session: ExecSession) -> Finished {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match soon(session.events.recv())
            .await
            .expect("the session ended without an exit")
        {
            ExecEvent::Output(OutputStream::Stdout, bytes) => stdout.extend_from_slice(&bytes),
            ExecEvent::Output(OutputStream::Stderr, bytes) => stderr.extend_from_slice(&bytes),
            // A command that outlives its connection says where its output begins.
            ExecEvent::Resumed(_) => {}
            ExecEvent::End => unreachable!("the end of a look at output"),
            ExecEvent::Exit(exit) => {
                assert_eq!(
                    session.events.recv().await,
                    None,
                    "something came after the exit"
                );
                return Finished {
                    stdout: String::from_utf8_lossy(&stdout).into_owned(),
                    stderr: String::from_utf8_lossy(&stderr).into_owned(),
                    exit,
                };
            }
        }
    }
}

/// Reads output until it holds `text`.
pub(crate) async fn read_until(session: &mut ExecSession, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        match soon(session.events.recv()).await {
            Some(ExecEvent::Output(_, bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Some(ExecEvent::Resumed(_)) => {}
            other => panic!("waited for {text:?} in {seen:?}, got {other:?}"),
        }
    }
    seen
}

pub(crate) async fn refused(agent: &Agent, spec: ExecSpec) -> OpError {
    agent
        .exec(spec)
        .await
        .expect_err("it should have been refused")
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("it should have happened by now")
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited in vain: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process still runs.
pub(crate) fn alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    !matches!(state, Some(b'Z' | b'X'))
}

pub(crate) async fn until_gone(pid: u32) {
    until("the process is gone", async || (!alive(pid)).then_some(())).await;
}

/// The number that a command has written into a file.
pub(crate) async fn pid_in(file: &Path) -> u32 {
    until("a process has written its number", async || {
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    })
    .await
}
