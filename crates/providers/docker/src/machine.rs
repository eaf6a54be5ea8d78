//! What the engine and its machine can do, found out by doing it.
//!
//! Owns the one picture of the engine that sandboxes are made by. Its rule: a level of isolation
//! above `container` is offered only after a container of that runtime has shown another kernel
//! than the machine's.

use std::sync::Arc;

use stacyvm_provider::ProviderError;
use stacyvm_types::Isolation;

use crate::agent::Source;
use crate::engine::QUICK;
use crate::inner::{Inner, locked};
use crate::runtimes::{self, Kind, Runtime};
use crate::{removal, trial};

/// One engine as it was last looked at.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The engine's own name for itself: another one is another machine.
    engine: String,
    /// Release of its machine's kernel.
    kernel: String,
    pub(crate) cores: Option<u32>,
    /// Every runtime that is registered.
    registered: Vec<Runtime>,
    /// What a spawn may choose from, the usual one first, with what it is known to separate by.
    pub(crate) offered: Vec<(Runtime, Isolation)>,
    /// The image that trials are made from.
    pub(crate) trial_image: String,
    /// How the agent comes into a container.
    pub(crate) agent: Source,
    /// Whether the storage driver limits what a container writes.
    pub(crate) disk_limit: bool,
    /// What does not work, a sentence each.
    pub(crate) degradations: Vec<String>,
}

impl Machine {
    /// The runtime that a spawn's level of isolation selects, and what it is known to be.
    pub(crate) fn runtime_for(&self, wanted: Isolation) -> Option<&(Runtime, Isolation)> {
        self.offered
            .iter()
            .find(|(_, level)| level.satisfies(wanted))
    }

    /// What kind a container's runtime is, by the name it was made with.
    pub(crate) fn kind_of(&self, runtime: &str) -> Kind {
        runtimes::configured(&self.registered, runtime).map_or(Kind::Plain, |found| found.kind)
    }
}

/// The engine as it was last looked at, after a first look if there was none.
pub(crate) async fn current(inner: &Inner) -> Result<Arc<Machine>, ProviderError> {
    if let Some(known) = inner.known_machine() {
        return Ok(known);
    }
    let _one_look = inner.examining.lock().await;
    match inner.known_machine() {
        Some(known) => Ok(known),
        None => look(inner, None).await,
    }
}

/// Looks at the engine and makes a container of the usual runtime whose agent has to answer; the
/// stronger ones are tried when they were not yet.
pub(crate) async fn examine(inner: &Inner) -> Result<(), ProviderError> {
    let _one_look = inner.examining.lock().await;
    let before = inner.known_machine();
    let mut machine = Machine::clone(&*look(inner, before.as_deref()).await?);
    removal::trials(inner).await?;
    let usual = machine.offered[0].0.clone();
    let mut offered = Vec::new();
    let mut degradations = Vec::new();
    for runtime in runtimes::offered(&machine.registered, &usual) {
        let is_usual = runtime == usual;
        let tried = before
            .as_ref()
            .filter(|before| before.engine == machine.engine);
        let tried =
            tried.and_then(|before| before.offered.iter().find(|(known, _)| *known == runtime));
        if let (false, Some(known)) = (is_usual, tried) {
            offered.push(known.clone());
            continue;
        }
        match trial::kernel(inner, &machine, &runtime).await {
            Ok(kernel) => match level(&runtime, &kernel, &machine.kernel) {
                Ok(level) => offered.push((runtime, level)),
                Err(words) => {
                    degradations.push(words);
                    if is_usual {
                        offered.push((runtime, Isolation::Container));
                    }
                }
            },
            Err(error) if is_usual => {
                // What was found before may be what is wrong: a volume may be gone, or the engine's
                // view of our files. The next look starts from nothing.
                *locked(&inner.machine) = None;
                return Err(error);
            }
            Err(error) => degradations.push(format!(
                "the runtime {:?} is registered but makes no sandbox: {error}",
                runtime.name
            )),
        }
    }
    degradations.extend(notes(inner, &offered));
    machine.offered = offered;
    machine.degradations = degradations;
    *locked(&inner.machine) = Some(Arc::new(machine));
    Ok(())
}

/// What a runtime really separates by, or why that is less than it says.
fn level(runtime: &Runtime, kernel: &str, hosts: &str) -> Result<Isolation, String> {
    let claimed = runtime.kind.isolation();
    if claimed != Isolation::Container && kernel == hosts {
        return Err(format!(
            "the runtime {:?} is registered as one of level {}, but its containers run on the machine's own kernel: it counts as container",
            runtime.name,
            claimed.as_str()
        ));
    }
    Ok(claimed)
}

/// What the chosen runtimes do not do as asked.
fn notes(inner: &Inner, offered: &[(Runtime, Isolation)]) -> Vec<String> {
    let gvisor = offered
        .iter()
        .any(|(runtime, _)| runtime.kind == Kind::Gvisor);
    let mut notes = Vec::new();
    if gvisor {
        notes.push(
            "gVisor counts its own threads as processes of a sandbox: its limit of processes is 1024 above the one that was asked for".to_owned(),
        );
        if inner.house.seccomp.option().is_some() {
            notes.push("gVisor has a filter of system calls of its own and takes none from providers.docker.seccomp_profile".to_owned());
        }
    }
    notes
}

/// Asks what there is; makes nothing that runs. What was found about the same engine before stays.
async fn look(inner: &Inner, before: Option<&Machine>) -> Result<Arc<Machine>, ProviderError> {
    let asking = inner
        .engine
        .ask("ask the engine what it is", QUICK, |docker| async move {
            docker.info().await
        });
    let info = asking.await?;
    if let Some(os) = info.os_type.as_deref().filter(|os| *os != "linux") {
        return Err(ProviderError::Unavailable(format!(
            "the engine makes {os} containers; hint: switch it to Linux containers"
        )));
    }
    let registered = runtimes::registered(&info);
    let usual = runtimes::configured(&registered, &inner.settings.runtime)?;
    let engine = info.id.unwrap_or_default();
    let trial_image = trial::image(inner).await?;
    let before = before.filter(|before| before.engine == engine);
    let (agent, disk_limit) = match before {
        Some(before) => (before.agent.clone(), before.disk_limit),
        None => {
            let agent = trial::agent_source(inner, &trial_image).await?;
            let disk_limit = trial::disk_limit(inner, &trial_image).await?;
            (agent, disk_limit)
        }
    };
    let machine = Arc::new(Machine {
        engine,
        kernel: info.kernel_version.unwrap_or_default(),
        cores: info.ncpu.and_then(|cores| u32::try_from(cores).ok()),
        registered,
        // Until a trial has shown more.
        offered: vec![(usual, Isolation::Container)],
        trial_image,
        agent,
        disk_limit,
        degradations: Vec::new(),
    });
    if before.is_none() {
        *locked(&inner.machine) = Some(machine.clone());
    }
    Ok(machine)
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
        let found = level(&runtime(Kind::Gvisor), "4.4.0", "6.1.0");
        assert_eq!(found, Ok(Isolation::UserspaceKernel));
        assert_eq!(
            level(&runtime(Kind::Kata), "6.0", "6.1.0"),
            Ok(Isolation::Vm)
        );
        let same = level(&runtime(Kind::Kata), "6.1.0", "6.1.0").unwrap_err();
        assert!(
            same.contains("level vm") && same.contains("container"),
            "{same}"
        );
        assert_eq!(
            level(&runtime(Kind::Plain), "6.1", "6.1"),
            Ok(Isolation::Container)
        );
    }
}
