//! Sandboxes that are directories, each with the real agent program over it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use stacyvm_provider::ops::Configure;
use stacyvm_provider::{
    AgentSandbox, BoxInfo, BoxSpec, BoxState, Capability, Health, Provider, ProviderError,
    SandboxOps, UnixConnector,
};
use stacyvm_types::{Isolation, SandboxId, SandboxStats};
use tokio::process::{Child, Command};
use tokio::sync::watch;

#[derive(Debug)]
struct Running {
    sandbox: Arc<AgentSandbox>,
    child: Child,
    ended: watch::Sender<bool>,
}

/// The provider.
#[derive(Debug)]
pub(crate) struct Boxes {
    directory: tempfile::TempDir,
    running: Mutex<BTreeMap<SandboxId, Running>>,
}

fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("STACYVM_AGENT_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    let path = own
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("stacyvm-agent");
    assert!(path.exists(), "build it: cargo build -p stacyvm-agent");
    path
}

impl Boxes {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            running: Mutex::default(),
        }
    }

    pub(crate) async fn end(&self) {
        let ids: Vec<_> = self.running.lock().unwrap().keys().cloned().collect();
        for id in ids {
            self.destroy(&id).await.unwrap();
        }
    }
}

#[async_trait]
impl Provider for Boxes {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn isolation(&self) -> Isolation {
        Isolation::None
    }

    fn capabilities(&self) -> Vec<Capability> {
        vec![Capability::Exec, Capability::Files]
    }

    fn default_image(&self) -> &str {
        "directory"
    }

    async fn health(&self) -> Health {
        Health {
            healthy: true,
            error: None,
            latency: Duration::from_millis(1),
        }
    }

    async fn check_image(&self, _: &str) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn create(&self, spec: &BoxSpec) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        let home = self.directory.path().join(spec.id.as_str());
        let root = home.join("root");
        for name in ["workspace", "tmp", "etc"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        let socket = home.join("agent.sock");
        let child = Command::new(program())
            .arg("--socket")
            .arg(&socket)
            .arg("--root")
            .arg(&root)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let configure = Configure {
            env: spec.env.clone(),
            user: spec.user.clone(),
            workdir: spec.workdir.clone(),
        };
        let sandbox = Arc::new(AgentSandbox::new(
            UnixConnector::new(socket),
            Some(configure),
        ));
        sandbox.connect().await.unwrap();
        let running = Running {
            sandbox: sandbox.clone(),
            child,
            ended: watch::Sender::new(false),
        };
        self.running
            .lock()
            .unwrap()
            .insert(spec.id.clone(), running);
        Ok(sandbox)
    }

    async fn open(&self, id: &SandboxId) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        match self.running.lock().unwrap().get(id) {
            Some(running) => Ok(running.sandbox.clone()),
            None => Err(ProviderError::NotFound("no such box".to_owned())),
        }
    }

    async fn list(&self) -> Result<Vec<BoxInfo>, ProviderError> {
        let info = |id: &SandboxId| BoxInfo {
            id: id.clone(),
            state: BoxState::Running,
        };
        Ok(self.running.lock().unwrap().keys().map(info).collect())
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), ProviderError> {
        let Some(mut running) = self.running.lock().unwrap().remove(id) else {
            return Ok(());
        };
        if let Ok(agent) = running.sandbox.agent().await {
            // It kills what it has started, then itself.
            let _ = agent.shutdown(Duration::ZERO).await;
        }
        let _ = running.child.wait().await;
        running.ended.send_replace(true);
        Ok(())
    }

    async fn stats(&self, _: &SandboxId) -> Result<SandboxStats, ProviderError> {
        Ok(SandboxStats::default())
    }

    async fn wait_exit(&self, id: &SandboxId) {
        let ended = self
            .running
            .lock()
            .unwrap()
            .get(id)
            .map(|running| running.ended.subscribe());
        if let Some(mut ended) = ended {
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }
}
