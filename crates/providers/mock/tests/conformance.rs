//! The provider mock against the suite that every provider passes, with the real agent program
//! (`STACYVM_AGENT_BIN`, or built here by cargo).
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use stacyvm_mock::MockProvider;
use stacyvm_provider::Provider;
use stacyvm_provider::conformance::Harness;
use stacyvm_provider::prelude::*;
use stacyvm_testing::agent;
use stacyvm_types::SandboxId;

struct Mock {
    provider: Arc<MockProvider>,
    home: tempfile::TempDir,
}

impl Mock {
    fn start(home: &Path) -> Arc<MockProvider> {
        Arc::new(MockProvider::new(home.join("mock"), agent()).unwrap())
    }

    fn directory(&self, id: &SandboxId) -> PathBuf {
        let home = std::fs::canonicalize(self.home.path()).unwrap();
        home.join("mock").join(id.as_str())
    }
}

async fn mock() -> Option<Mock> {
    let home = tempfile::tempdir().unwrap();
    Some(Mock {
        provider: Mock::start(home.path()),
        home,
    })
}

#[async_trait]
impl Harness for Mock {
    fn provider(&self) -> Arc<dyn Provider> {
        self.provider.clone()
    }

    async fn restart(&mut self) {
        self.provider.close().await;
        self.provider = Self::start(self.home.path());
    }

    async fn kill_workload(&self, id: &SandboxId) {
        let text = std::fs::read(self.directory(id).join("pid.json")).unwrap();
        let recorded: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let pid = i32::try_from(recorded["pid"].as_i64().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    fn skip(&self, reason: &str) {
        stacyvm_testing::skip(reason);
    }

    async fn leftovers(&self, id: &SandboxId) -> Vec<String> {
        let directory = self.directory(id);
        let mut left = Vec::new();
        if directory.exists() {
            left.push("its directory".to_owned());
        }
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let place = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            // A process that has ended has neither of them any more.
            if place.starts_with(&directory) || line.contains(directory.to_str().unwrap()) {
                left.push(format!("process {:?}: {line:?}", entry.file_name()));
            }
        }
        left
    }
}

stacyvm_provider::conformance_tests!(mock);

#[tokio::test]
async fn a_half_made_sandbox_is_listed_and_removed() {
    let harness = mock().await.unwrap();
    let spec = stacyvm_provider::conformance::spec(&*harness.provider);
    harness.provider.create(&spec).await.unwrap();
    // As if the server had been killed between the start of the agent and the note of its number,
    // by one that does not answer any more either.
    let directory = harness.directory(&spec.id);
    std::fs::remove_file(directory.join("pid.json")).unwrap();
    std::fs::remove_file(directory.join("agent.sock")).unwrap();
    let later = Mock::start(harness.home.path());
    let listed = later.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].state, stacyvm_provider::BoxState::Partial);
    assert!(!harness.leftovers(&spec.id).await.is_empty());
    later.destroy(&spec.id).await.unwrap();
    assert_eq!(later.list().await.unwrap(), []);
    assert_eq!(harness.leftovers(&spec.id).await, Vec::<String>::new());
}
