//! The suite that every provider passes.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use stacyvm_provider::Provider;
use stacyvm_provider::conformance::Harness;
use stacyvm_types::SandboxId;

use crate::support::{Surroundings, World};

async fn harness() -> Option<World> {
    let surroundings = Surroundings::find()?;
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

    fn skip(&self, reason: &str) {
        stacyvm_testing::skip(reason);
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

/// The processes that have a container's name in their command lines.
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

/// The suite over the engine's attachment, which is the only way to an engine on another machine.
mod attached {
    use super::*;

    async fn harness() -> Option<World> {
        let surroundings = Surroundings::find()?;
        Some(World::with(surroundings, |settings| settings.attach_only = true).await)
    }

    stacyvm_provider::conformance_tests!(harness);
}

/// The suite with gVisor's kernel.
mod gvisor {
    use super::*;

    async fn harness() -> Option<World> {
        let surroundings = Surroundings::find()?;
        if !surroundings.has_runtime("runsc") {
            stacyvm_testing::skip("the engine has no runtime runsc");
            return None;
        }
        let world = World::with(surroundings, |settings| {
            settings.runtime = "runsc".to_owned()
        });
        Some(world.await)
    }

    stacyvm_provider::conformance_tests!(harness);
}

/// The suite with warm containers, from which every fitting sandbox is made.
mod warm {
    use super::*;

    async fn harness() -> Option<World> {
        let surroundings = Surroundings::find()?;
        let world = World::with(surroundings, crate::warm::keep_two).await;
        world.until_warm(2).await;
        Some(world)
    }

    stacyvm_provider::conformance_tests!(harness);
}
