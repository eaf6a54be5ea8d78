//! Finding out what the engine and its machine can do, by trying it.
//!
//! The one rule: a level of isolation above `container` is offered only after a container of that
//! runtime has shown another kernel than the machine's.

use std::sync::Arc;

use parking_lot::Mutex;
use stacyvm_provider::ProviderError;
use stacyvm_types::Isolation;

use crate::engine::{Engine, QUERY_TIMEOUT};
use crate::machine::Machine;
use crate::runtimes::{self, Runtime, RuntimeKind};
use crate::trial::Trials;

/// Probes one engine and keeps what it found.
#[derive(Debug)]
pub(crate) struct EngineProbe {
    engine: Arc<Engine>,
    trials: Trials,
    /// The name of the configured runtime.
    runtime: String,
    /// Whether the engine is given a seccomp profile.
    has_seccomp_option: bool,
    found: Mutex<Option<Arc<Machine>>>,
    /// Held during a probe, so that there is one at a time.
    probing: tokio::sync::Mutex<()>,
}

impl EngineProbe {
    pub(crate) fn new(
        engine: Arc<Engine>,
        trials: Trials,
        runtime: String,
        has_seccomp_option: bool,
    ) -> Self {
        Self {
            engine,
            trials,
            runtime,
            has_seccomp_option,
            found: Mutex::default(),
            probing: tokio::sync::Mutex::default(),
        }
    }

    /// What the newest probe has found; none before the first one.
    pub(crate) fn found(&self) -> Option<Arc<Machine>> {
        self.found.lock().clone()
    }

    /// What the newest probe has found, after a short one if there was none.
    pub(crate) async fn current(&self) -> Result<Arc<Machine>, ProviderError> {
        if let Some(found) = self.found() {
            return Ok(found);
        }
        let _one_probe = self.probing.lock().await;
        match self.found() {
            Some(found) => Ok(found),
            None => self.describe(None).await,
        }
    }

    /// Probes the engine with a container of the configured runtime, whose agent must answer, and
    /// with one of each stronger runtime that was not tried yet.
    pub(crate) async fn examine(&self) -> Result<(), ProviderError> {
        let _one_probe = self.probing.lock().await;
        let before = self.found();
        let mut machine = Machine::clone(&*self.describe(before.as_deref()).await?);
        self.trials.remove_leftovers().await?;
        let before = before.filter(|before| before.engine_id == machine.engine_id);
        let configured = machine.offered[0].0.clone();
        let mut offered = Vec::new();
        let mut degradations = Vec::new();
        for runtime in runtimes::offered(&machine.registered, &configured) {
            let is_configured = runtime == configured;
            let tried = before
                .as_ref()
                .and_then(|before| before.offered.iter().find(|(known, _)| *known == runtime));
            if let (false, Some(known)) = (is_configured, tried) {
                offered.push(known.clone());
                continue;
            }
            match self.trials.kernel(&machine, &runtime).await {
                Ok(kernel) => match proven_level(&runtime, &kernel, &machine.kernel) {
                    Ok(level) => offered.push((runtime, level)),
                    Err(degradation) => {
                        degradations.push(degradation);
                        if is_configured {
                            offered.push((runtime, Isolation::Container));
                        }
                    }
                },
                Err(error) if is_configured => {
                    // The cause may be something that an earlier probe has found, such as a volume
                    // that is gone by now. The next probe uses nothing of it.
                    *self.found.lock() = None;
                    return Err(error);
                }
                Err(error) => degradations.push(format!(
                    "the runtime {:?} is registered but makes no sandbox: {error}",
                    runtime.name
                )),
            }
        }
        degradations.extend(self.runtime_degradations(&offered));
        machine.offered = offered;
        machine.degradations = degradations;
        *self.found.lock() = Some(Arc::new(machine));
        Ok(())
    }

    /// Describes the engine without starting a container. What a probe of the same engine has found
    /// before is kept.
    async fn describe(&self, before: Option<&Machine>) -> Result<Arc<Machine>, ProviderError> {
        let asking = self.engine.request(
            "ask the engine what it is",
            QUERY_TIMEOUT,
            |docker| async move { docker.info().await },
        );
        let info = asking.await?;
        if let Some(os) = info.os_type.as_deref().filter(|os| *os != "linux") {
            return Err(ProviderError::Unavailable(format!(
                "the engine makes {os} containers; hint: switch it to Linux containers"
            )));
        }
        let registered = runtimes::registered(&info);
        let configured = runtimes::configured(&registered, &self.runtime)?;
        let engine_id = info.id.unwrap_or_default();
        let trial_image = self.trials.image().await?;
        let before = before.filter(|before| before.engine_id == engine_id);
        let (agent, disk_limit) = match before {
            Some(before) => (before.agent.clone(), before.disk_limit),
            None => {
                let agent = self.trials.agent_source(&trial_image).await?;
                let disk_limit = self.trials.has_disk_limit(&trial_image).await?;
                (agent, disk_limit)
            }
        };
        let machine = Arc::new(Machine {
            engine_id,
            kernel: info.kernel_version.unwrap_or_default(),
            cores: info.ncpu.and_then(|cores| u32::try_from(cores).ok()),
            registered,
            // Trials may add stronger ones.
            offered: vec![(configured, Isolation::Container)],
            trial_image,
            agent,
            disk_limit,
            degradations: Vec::new(),
        });
        if before.is_none() {
            *self.found.lock() = Some(machine.clone());
        }
        Ok(machine)
    }

    /// What the offered runtimes do differently than a spawn asks for.
    fn runtime_degradations(&self, offered: &[(Runtime, Isolation)]) -> Vec<String> {
        let is_gvisor = |(runtime, _): &(Runtime, Isolation)| runtime.kind == RuntimeKind::Gvisor;
        let mut degradations = Vec::new();
        if offered.iter().any(is_gvisor) {
            degradations.push(
                "gVisor counts its own threads as processes of a sandbox: its limit of processes is 1024 above the one that was asked for".to_owned(),
            );
            if self.has_seccomp_option {
                degradations.push("gVisor has a filter of system calls of its own and takes none from providers.docker.seccomp_profile".to_owned());
            }
        }
        degradations
    }
}

/// The level of isolation that a trial of a runtime has proven, or a sentence about a runtime that
/// claims more.
fn proven_level(
    runtime: &Runtime,
    kernel: &str,
    machine_kernel: &str,
) -> Result<Isolation, String> {
    let claimed = runtime.kind.isolation();
    if claimed != Isolation::Container && kernel == machine_kernel {
        return Err(format!(
            "the runtime {:?} is registered as one of level {}, but its containers run on the machine's own kernel: it counts as container",
            runtime.name,
            claimed.as_str()
        ));
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_without_another_kernel_counts_as_container() {
        let runtime = |kind| Runtime {
            name: "r".to_owned(),
            kind,
        };
        let found = proven_level(&runtime(RuntimeKind::Gvisor), "4.4.0", "6.1.0");
        assert_eq!(found, Ok(Isolation::UserspaceKernel));
        assert_eq!(
            proven_level(&runtime(RuntimeKind::Kata), "6.0", "6.1.0"),
            Ok(Isolation::Vm)
        );
        let same = proven_level(&runtime(RuntimeKind::Kata), "6.1.0", "6.1.0").unwrap_err();
        assert!(
            same.contains("level vm") && same.contains("container"),
            "{same}"
        );
        assert_eq!(
            proven_level(&runtime(RuntimeKind::Plain), "6.1", "6.1"),
            Ok(Isolation::Container)
        );
    }
}
