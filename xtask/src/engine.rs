//! A Docker Engine for the tests: its own network namespace, directories, cgroup and images, so that
//! neither an engine nor the network of the machine is touched.
//!
//! Owns its start, its images and its end. One rule that is easy to miss: everything that belongs to
//! an engine is found again by the path of its files, never by a remembered process id, so that what a
//! killed run left is ended by the next one.

mod images;
mod remains;

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::tools;
use crate::workspace::Workspace;

pub(crate) use images::DebianImage;

/// A small image: a static busybox with its names in `/bin`.
const BUSYBOX: &str = "test/busybox:1";
/// A whole one: Debian's smallest, with Python.
const DEBIAN: &str = "test/debian:1";

/// How long the engine may take until it answers: a machine that also compiles is slow.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A running engine.
#[derive(Debug)]
pub(crate) struct Engine {
    files: EngineFiles,
    daemon: Child,
}

impl Engine {
    /// What this machine lacks for one; none when it has everything.
    pub(crate) fn missing() -> Option<&'static str> {
        if !cfg!(target_os = "linux") {
            return Some("an engine of our own needs Linux");
        }
        // The owner of our own entry in /proc: the user that we are.
        if fs::metadata("/proc/self").map_or(1, |own| own.uid()) != 0 {
            return Some("an engine of our own needs root");
        }
        if !tools::works("dockerd", &["--version"]) || !tools::works("docker", &["--version"]) {
            return Some("dockerd or docker is missing: run scripts/test-setup");
        }
        None
    }

    /// Ends what an earlier one left, starts one, and gives it its images.
    pub(crate) fn start(workspace: &Workspace, debian: DebianImage) -> Result<Self> {
        let files = EngineFiles::of(workspace);
        remains::end(&files)?;
        files.make()?;
        let mut engine = Self {
            daemon: launch(&files)?,
            files,
        };
        let ready = engine.await_answer().and_then(|()| {
            images::import_busybox(&engine.files)?;
            debian.import(&engine.files)
        });
        match ready {
            Ok(()) => Ok(engine),
            Err(error) => {
                let log = fs::read_to_string(engine.files.log()).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                for line in tail.iter().rev() {
                    eprintln!("    {line}");
                }
                engine.end()?;
                Err(error)
            }
        }
    }

    fn await_answer(&mut self) -> Result<()> {
        let start = Instant::now();
        while !self.files.docker_works(&["version"]) {
            if let Some(status) = self.daemon.try_wait().context("look at dockerd")? {
                bail!("dockerd ended with {status}");
            }
            ensure!(
                start.elapsed() < START_TIMEOUT,
                "dockerd does not answer within {START_TIMEOUT:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What tests have to know of it, as variables of their environment.
    pub(crate) fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("STACYVM_TEST_DOCKER", self.files.address()),
            ("STACYVM_TEST_DOCKER_IMAGE", DEBIAN.to_owned()),
            ("STACYVM_TEST_DOCKER_SMALL_IMAGE", BUSYBOX.to_owned()),
            (
                "STACYVM_TEST_DOCKER_NETWORK",
                format!("/proc/{}/ns/net", self.daemon.id()),
            ),
        ]
    }

    /// Ends it with everything in it.
    pub(crate) fn end(mut self) -> Result<()> {
        let ended = remains::end(&self.files);
        // Killed above: this only takes note of it.
        let _ = self.daemon.wait();
        ended
    }
}

/// `cargo xtask engine`: starts one for work by hand, which stays until it is ended or the next one
/// of this target directory starts.
pub(crate) fn by_hand(workspace: &Workspace) -> Result<()> {
    if let Some(reason) = Engine::missing() {
        bail!("{reason}");
    }
    let engine = Engine::start(workspace, DebianImage::begin(workspace))?;
    for (name, value) in engine.variables() {
        println!("export {name}={value}");
    }
    eprintln!("    it runs until `cargo xtask engine --stop`");
    Ok(())
}

/// `cargo xtask engine --stop`.
pub(crate) fn stop(workspace: &Workspace) -> Result<()> {
    remains::end(&EngineFiles::of(workspace))
}

/// Where the engine of one target directory lives.
#[derive(Debug)]
pub(crate) struct EngineFiles {
    /// Its sockets and what it keeps while it runs; short, because paths of sockets are limited, and
    /// in a directory that only root can write.
    run: PathBuf,
    /// Its images and containers.
    data: PathBuf,
}

impl EngineFiles {
    fn of(workspace: &Workspace) -> Self {
        let mut hasher = DefaultHasher::new();
        workspace.target.hash(&mut hasher);
        // One per target directory: two clones can run their tests at the same time.
        let name = format!("stacyvm-engine-{:08x}", hasher.finish() as u32);
        Self {
            run: Path::new("/run").join(name),
            data: workspace.target.join("engine/data"),
        }
    }

    fn make(&self) -> Result<()> {
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        for directory in [&self.run, &self.data] {
            private
                .create(directory)
                .with_context(|| format!("make {}", directory.display()))?;
        }
        Ok(())
    }

    /// The path that is on the command line of every process of the engine.
    fn mark(&self) -> String {
        self.run.display().to_string()
    }

    /// The cgroup that all its containers are in, below the root of each hierarchy.
    fn cgroup(&self) -> &str {
        self.run
            .file_name()
            .and_then(|name| name.to_str())
            .expect("it was made of text")
    }

    fn address(&self) -> String {
        format!("unix://{}/docker.sock", self.run.display())
    }

    fn log(&self) -> PathBuf {
        self.run.join("log")
    }

    /// Docker's command line for this engine, with nothing of the user's own settings.
    fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(["--host", &self.address()])
            .args(arguments)
            .env("DOCKER_CONFIG", self.run.join("client"))
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_HOST");
        command
    }

    fn docker_works(&self, arguments: &[&str]) -> bool {
        self.docker(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

/// Starts the daemon in a network namespace of its own, in a process group that a Ctrl-C meant for us
/// does not reach.
fn launch(files: &EngineFiles) -> Result<Child> {
    let mut settings = json!({
        "live-restore": true,
        // With it the engine would put containers where systemd says; ours are found by their group.
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": format!("/{}", files.cgroup()),
        "features": {"buildkit": false},
    });
    if let Some(runsc) = on_the_path("runsc") {
        // Of the ways in which gVisor can work this is the one that needs neither KVM nor a kernel
        // that knows it, and its own network stack does not come up on kernels newer than itself.
        settings["runtimes"] = json!({
            "runsc": {"path": runsc, "runtimeArgs": ["--network=host", "--platform=ptrace"]},
        });
    }
    let file = files.run.join("daemon.json");
    fs::write(&file, settings.to_string()).context("write the engine's settings")?;
    let log = fs::File::create(files.log()).context("make the engine's log")?;
    let run = files.mark();
    Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && exec dockerd \"$@\"",
            "dockerd",
        ])
        .args(["--config-file", &file.display().to_string()])
        .args(["--data-root", &files.data.display().to_string()])
        .args(["--exec-root", &format!("{run}/exec")])
        .args(["--pidfile", &format!("{run}/pid")])
        .args(["--host", &files.address()])
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the engine's log")?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("start dockerd")
}

fn on_the_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
