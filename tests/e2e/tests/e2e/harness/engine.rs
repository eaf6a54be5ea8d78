//! A Docker Engine of one test's own, that can be killed and started again. Its containers outlive
//! it, as those of an engine with `live-restore` do.
//!
//! It lives below the place of the engine for all tests and in its cgroup, so that whatever a killed
//! test leaves is ended with that one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::docker::Engine;
use super::server::finish;
use super::world::Namespace;
use super::{SOON, eventually};

/// Ends with this, with everything in it.
#[derive(Debug)]
pub(crate) struct OwnEngine {
    engine: Engine,
    /// Keeps the network when the daemon is dead.
    network: Namespace,
    place: PathBuf,
    daemon: Option<Child>,
}

impl OwnEngine {
    /// Starts one and gives it the small image.
    pub(crate) fn start(shared: &Engine) -> Self {
        let socket = shared.address().strip_prefix("unix://").unwrap();
        let around = Path::new(socket).parent().unwrap();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = around.join(format!("own-{}-{next}", std::process::id()));
        fs::create_dir(&place).unwrap();
        let group = format!(
            "/{}/{}",
            around.file_name().unwrap().to_str().unwrap(),
            place.file_name().unwrap().to_str().unwrap()
        );
        let settings = json!({
            "live-restore": true,
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": group,
        });
        fs::write(place.join("daemon.json"), settings.to_string()).unwrap();
        let network = Namespace::new();
        let address = format!("unix://{}/docker.sock", place.display());
        let mut own = Self {
            engine: shared.own(address, network.path()),
            network,
            place,
            daemon: None,
        };
        own.resume();
        let archive = own.place.join("image.tar");
        let archive = archive.to_str().unwrap();
        let image = shared.small_image();
        shared.docker(&["save", "--output", archive, image]).ok();
        own.engine.docker(&["load", "--input", archive]).ok();
        own
    }

    /// To ask it and to make servers for it.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Starts the daemon, and waits until it answers.
    pub(crate) fn resume(&mut self) {
        assert!(self.daemon.is_none(), "it is running");
        let path = |name: &str| self.place.join(name).display().to_string();
        // The process ids in these files may belong to other processes by now, or to zombies: the
        // daemon would wait for them.
        for file in ["pid", "exec/containerd/containerd.pid"] {
            let _ = fs::remove_file(path(file));
        }
        let log = File::options().create(true).append(true).open(path("log"));
        let log = log.unwrap();
        let daemon = self
            .network
            .command("dockerd")
            .args(["--config-file", &path("daemon.json")])
            .args(["--data-root", &path("data")])
            .args(["--exec-root", &path("exec")])
            .args(["--pidfile", &path("pid")])
            .args(["--host", self.engine.address()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
        eventually("the engine answers", SOON, || {
            let status = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(status.is_none(), "the engine ended: {}", self.log());
            self.engine.docker(&["version"]).code == Some(0)
        });
    }

    /// Ends the daemon without a word; its containers go on.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("it is running");
        let file = self.place.join("exec/containerd/containerd.pid");
        let below = fs::read_to_string(file).unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let line = PathBuf::from(format!("/proc/{}/cmdline", below.trim()));
        eventually("what the daemon started has ended with it", SOON, || {
            // One that is only waited for has no command line.
            !fs::read_to_string(&line).is_ok_and(|line| line.contains("containerd"))
        });
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.join("log")).unwrap_or_default()
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(3000);
            eprintln!(
                "--- end of the engine's log\n{}",
                log.get(start..).unwrap_or(&log)
            );
        }
        let Some(mut daemon) = self.daemon.take() else {
            // What it leaves is found with the engine for all tests.
            return;
        };
        let listed = self.engine.docker(&["ps", "--all", "--quiet"]).stdout;
        for container in listed.lines() {
            self.engine
                .docker(&["rm", "--force", "--volumes", container]);
        }
        let _ = kill_process(Pid::from_child(&daemon), Signal::TERM);
        let _ = daemon.wait();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for target in targets.filter(|target| Path::new(target).starts_with(&self.place)) {
            finish(Command::new("umount").args(["--lazy", target]));
        }
        let _ = fs::remove_dir_all(&self.place);
    }
}
