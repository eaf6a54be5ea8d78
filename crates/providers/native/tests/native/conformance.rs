//! The suite that every provider passes.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process};
use stacyvm_provider::Provider;
use stacyvm_provider::conformance::Harness;
use stacyvm_sys::cgroup::Layout;
use stacyvm_types::SandboxId;

use crate::support::World;

async fn harness() -> Option<World> {
    if !stacyvm_testing::root_or_skip() {
        return None;
    }
    Some(World::start().await)
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
        let pid = World::provider(self).first_process(id).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }

    fn skip(&self, reason: &str) {
        stacyvm_testing::skip(reason);
    }

    async fn leftovers(&self, id: &SandboxId) -> Vec<String> {
        let mut left = Vec::new();
        if self.box_dir(id).exists() {
            left.push("its directory".to_owned());
        }
        let layout = Layout::detect();
        for place in layout.v1.values().chain(&layout.unified) {
            for base in [&place.mount, &place.own] {
                let group = base
                    .join("stacyvm")
                    .join(&self.config.instance)
                    .join(id.as_str());
                if group.exists() {
                    left.push(group.display().to_string());
                }
            }
        }
        left.extend(processes_named(id));
        left
    }
}

/// Processes that stand in a control group with the name of the sandbox.
fn processes_named(id: &SandboxId) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let text = |file: &str| {
            let path = Path::new("/proc").join(&name).join(file);
            std::fs::read_to_string(path).unwrap_or_default()
        };
        // One that has ended and waits for the machine's first process to notice runs no more.
        let ended = text("stat")
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'));
        if !ended && text("cgroup").contains(id.as_str()) {
            found.push(format!("process {}", name.to_string_lossy()));
        }
    }
    found
}

stacyvm_provider::conformance_tests!(harness);
