//! A provider with a data directory of its own, and helpers to run commands in its sandboxes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use stacyvm_native::{NativeConfig, NativeProvider};
use stacyvm_provider::ops::{
    Credentials, ExecEvent, ExecExit, ExecSpec, OpError, ReadRange, WriteOptions,
};
use stacyvm_provider::prelude::*;
use stacyvm_provider::{BoxSpec, NetworkMode, ProviderError, SandboxOps};
pub(crate) use stacyvm_testing::launcher;
use stacyvm_types::{FileMode, Isolation, OutputStream, SandboxId};

/// Longer than anything here takes on a loaded machine.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Leaves the test when the machine cannot run it.
macro_rules! need_root {
    () => {
        if !stacyvm_testing::root_or_skip() {
            return;
        }
    };
}
pub(crate) use need_root;

/// Copies a program that is to be started. By another process: a child that some other thread forks
/// off while the copy is written would keep it busy.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg(from).arg(to).status();
    assert!(
        copied.unwrap().success(),
        "{} is not copied",
        from.display()
    );
}

/// A different instance name for every world, so that their cgroups never meet.
fn instance() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("test-{}-{number}", std::process::id())
}

/// One provider and all that it makes.
pub(crate) struct World {
    pub(crate) config: NativeConfig,
    provider: OnceLock<Arc<NativeProvider>>,
    _home: tempfile::TempDir,
}

impl World {
    /// With the settings that `change` makes of the usual ones.
    pub(crate) async fn with(change: impl FnOnce(&mut NativeConfig, &Path)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut config = NativeConfig::new(home.path().join("data"), launcher());
        config.instance = instance();
        change(&mut config, home.path());
        let world = Self {
            config,
            provider: OnceLock::new(),
            _home: home,
        };
        let _ = world.provider.set(world.another_provider().await.unwrap());
        world
    }

    pub(crate) async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    /// A provider over the same directory, as a server that starts again would have.
    pub(crate) async fn another_provider(&self) -> Result<Arc<NativeProvider>, ProviderError> {
        NativeProvider::start(self.config.clone())
            .await
            .map(Arc::new)
    }

    /// Stops the server and starts it again over the same directory.
    pub(crate) async fn restart(&mut self) {
        let old = self.provider.take().unwrap();
        old.close().await;
        drop(old);
        let _ = self.provider.set(self.another_provider().await.unwrap());
    }

    /// The same world after a restart.
    pub(crate) async fn restarted(mut self) -> Self {
        self.restart().await;
        self
    }

    pub(crate) fn provider(&self) -> &Arc<NativeProvider> {
        self.provider.get().unwrap()
    }

    pub(crate) fn boxes(&self) -> PathBuf {
        self.config.data_dir.join("native/boxes")
    }

    pub(crate) fn box_dir(&self, id: &SandboxId) -> PathBuf {
        self.boxes().join(id.as_str())
    }

    /// Makes a sandbox of the image `host`.
    pub(crate) async fn spawn(&self) -> Sandbox {
        self.spawn_with(|_| {}).await
    }

    /// Makes a sandbox with a spec that `change` makes of the usual one.
    pub(crate) async fn spawn_with(&self, change: impl FnOnce(&mut BoxSpec)) -> Sandbox {
        let mut spec = spec();
        change(&mut spec);
        let ops = self.provider().create(&spec).await.unwrap();
        Sandbox { id: spec.id, ops }
    }

    pub(crate) async fn destroy(&self, sandbox: &Sandbox) {
        self.provider().destroy(&sandbox.id).await.unwrap();
    }

    /// Cgroup directories of a sandbox, as its launcher recorded them.
    pub(crate) fn cgroups(&self, id: &SandboxId) -> Vec<PathBuf> {
        let text = std::fs::read(self.box_dir(id).join("pid.json")).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let groups = value["cgroups"].as_object().unwrap();
        groups
            .values()
            .map(|path| path.as_str().unwrap().into())
            .collect()
    }

    /// Destroys what is left and checks that nothing remains.
    pub(crate) async fn finish(self) {
        for found in self.provider().list().await.unwrap() {
            self.provider().destroy(&found.id).await.unwrap();
        }
        assert_eq!(self.provider().list().await.unwrap(), []);
        let mut left = std::fs::read_dir(self.boxes()).unwrap();
        assert!(left.next().is_none(), "a box directory is left");
        self.provider().close().await;
    }
}

impl Drop for World {
    /// After a failed test: nothing may go on running, and no group may stay.
    fn drop(&mut self) {
        let Ok(boxes) = std::fs::read_dir(self.boxes()) else {
            return;
        };
        for entry in boxes.flatten() {
            let Ok(text) = std::fs::read(entry.path().join("pid.json")) else {
                continue;
            };
            let Ok(value) = serde_json::from_slice::<serde_json::Value>(&text) else {
                continue;
            };
            let pid = value["pid"]
                .as_i64()
                .and_then(|pid| i32::try_from(pid).ok());
            let ticks = value["start_ticks"].as_u64();
            if let (Some(pid), Some(ticks)) = (pid, ticks)
                && let Ok(Some(pidfd)) = stacyvm_sys::pidfd::open_started_at(pid, ticks)
            {
                let _ = stacyvm_sys::pidfd::kill(&pidfd);
                let _ = stacyvm_sys::pidfd::wait(&pidfd, TEST_TIMEOUT);
            }
            if let Ok(groups) =
                serde_json::from_value::<BTreeMap<String, PathBuf>>(value["cgroups"].clone())
            {
                let _ = stacyvm_sys::cgroup::remove(&groups, TEST_TIMEOUT);
                for parent in groups.values().filter_map(|dir| dir.parent()) {
                    let _ = std::fs::remove_dir(parent);
                }
            }
        }
    }
}

/// A spec that asks for little.
pub(crate) fn spec() -> BoxSpec {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    BoxSpec {
        id: SandboxId::from_u32(NEXT.fetch_add(1, Ordering::Relaxed)),
        image: "host".to_owned(),
        isolation: Isolation::Container,
        memory_mb: 512,
        vcpus: stacyvm_types::Vcpus::ONE,
        pids_limit: 128,
        open_files: 1024,
        disk_mb: None,
        read_only_rootfs: false,
        network: NetworkMode::None,
        user: None,
        workdir: None,
        env: BTreeMap::new(),
    }
}

/// One sandbox.
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) ops: Arc<dyn SandboxOps>,
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: ExecExit,
    pub(crate) stdout: String,
    /// For the message of a failed assertion.
    _stderr: String,
}

impl Outcome {
    /// What it printed, when it went well.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.exit.exit_code, 0, "{self:?}");
        self.stdout.trim_end().to_owned()
    }
}

impl Sandbox {
    pub(crate) async fn run(&self, spec: ExecSpec) -> Outcome {
        let mut session = self.ops.exec(spec).await.unwrap();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let reading = async {
            while let Some(event) = session.events.recv().await {
                match event {
                    ExecEvent::Output(OutputStream::Stdout, bytes) => stdout.extend(bytes),
                    ExecEvent::Output(OutputStream::Stderr, bytes) => stderr.extend(bytes),
                    // A command that outlives its connection says where its output begins.
                    ExecEvent::Resumed(_) => {}
                    ExecEvent::End => unreachable!("the end of a look at output"),
                    ExecEvent::Exit(exit) => return exit,
                }
            }
            panic!("the connection was lost");
        };
        let exit = tokio::time::timeout(TEST_TIMEOUT, reading)
            .await
            .expect("the command does not end");
        Outcome {
            exit,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            _stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    pub(crate) async fn sh(&self, script: &str) -> Outcome {
        self.run(command(["sh", "-c", script])).await
    }

    pub(crate) async fn sh_as(&self, user: &str, script: &str) -> Outcome {
        let mut spec = command(["sh", "-c", script]);
        spec.user = Credentials::User(user.to_owned());
        self.run(spec).await
    }

    pub(crate) async fn python(&self, code: &str) -> Outcome {
        self.run(command(["python3", "-c", code])).await
    }

    pub(crate) async fn python_as(&self, user: &str, code: &str) -> Outcome {
        let mut spec = command(["python3", "-c", code]);
        spec.user = Credentials::User(user.to_owned());
        self.run(spec).await
    }

    pub(crate) async fn read(&self, path: &str) -> Result<Vec<u8>, OpError> {
        let mut file = self.ops.read(path, ReadRange::default()).await?;
        let mut content = Vec::new();
        while let Some(piece) = file.data.recv().await {
            content.extend(piece?);
        }
        Ok(content)
    }

    pub(crate) async fn write(&self, path: &str, content: &str) -> Result<(), OpError> {
        let (sender, data) = tokio::sync::mpsc::channel(1);
        sender
            .send(Ok(content.as_bytes().to_vec().into()))
            .await
            .unwrap();
        drop(sender);
        let options = WriteOptions {
            mode: "0644".parse::<FileMode>().unwrap(),
            parents: true,
        };
        self.ops.write(path, options, data).await
    }
}

pub(crate) fn command<const N: usize>(argv: [&str; N]) -> ExecSpec {
    ExecSpec {
        argv: argv.map(str::to_owned).to_vec(),
        ..ExecSpec::default()
    }
}

/// A file of the host in a place that no sandbox may see, with a content to look for.
pub(crate) struct Canary {
    _dir: tempfile::TempDir,
    pub(crate) path: String,
}

impl Canary {
    pub(crate) const SECRET: &'static str = "the canary's song";

    pub(crate) fn below(parent: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("stacyvm-test-")
            .tempdir_in(parent)
            .unwrap();
        // Open to everybody, so that only the sandbox's own walls keep it away.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let path = dir.path().join("canary");
        std::fs::write(&path, Self::SECRET).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&path, open).unwrap();
        Self {
            path: path.to_str().unwrap().to_owned(),
            _dir: dir,
        }
    }

    pub(crate) fn assert_untouched(&self) {
        assert_eq!(std::fs::read_to_string(&self.path).unwrap(), Self::SECRET);
    }
}

/// Waits for a condition that nothing announces.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    stacyvm_testing::eventually(what, async || condition()).await;
}
