//! The suite that every provider passes.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use stacyvm_provider::Provider;
use stacyvm_provider::conformance::Harness;
use stacyvm_types::SandboxId;

use crate::support::{Surroundings, World};

async fn harness() -> Option<World> {
    let surroundings = Surroundings::find("conformance")?;
    Some(World::with(surroundings, |_| {}).await)
}

#[async_trait]
impl Harness for World {
    fn provider(&self) -> Arc<dyn Provider> {
        World::provider(self).clone()
    }

    async fn restart(&mut self) {
        World::restart(self).await;
    }

    async fn kill_workload(&self, id: &SandboxId) {
        let container = self.container(id);
        self.surroundings.docker(&["kill", &container]);
    }

    async fn leftovers(&self, id: &SandboxId) -> Vec<String> {
        let mut left: Vec<String> = self
            .remains()
            .into_iter()
            .filter(|name| name.contains(id.as_str()))
            .collect();
        left.extend(processes_of(&self.container(id)));
        left
    }
}

/// Processes that belong to a container of this name: its agent has a host name of the sandbox's.
fn processes_of(container: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(Path::new("/proc").join(entry.file_name()).join("cmdline"));
        let line = String::from_utf8_lossy(&line.unwrap_or_default()).into_owned();
        if line.contains(container) {
            found.push(format!("process {:?}: {line:?}", entry.file_name()));
        }
    }
    found
}

stacyvm_provider::conformance_tests!(harness);
