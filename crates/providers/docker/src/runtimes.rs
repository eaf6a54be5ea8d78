//! The runtimes of an engine, and the level of isolation that each claims.
//!
//! The one rule: a runtime's registration is a claim and proves nothing. A level above `container`
//! counts only after a container of that runtime has reported its kernel.

use std::collections::HashMap;

use bollard::models::{Runtime as Registered, SystemInfo};
use stacyvm_provider::ProviderError;
use stacyvm_types::Isolation;

/// The kinds of runtimes that are treated differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuntimeKind {
    /// Processes of the engine's machine in namespaces: runc, crun, and every unknown runtime.
    Plain,
    /// gVisor: a kernel in user space.
    Gvisor,
    /// Kata: a virtual machine.
    Kata,
}

impl RuntimeKind {
    /// The level of isolation that it claims.
    pub(crate) fn isolation(self) -> Isolation {
        match self {
            Self::Plain => Isolation::Container,
            Self::Gvisor => Isolation::UserspaceKernel,
            Self::Kata => Isolation::Vm,
        }
    }

    /// Determines the kind by the program that the engine starts, else by the name of the shim.
    fn of(name: &str, registered: &Registered) -> Self {
        let path = registered.path.as_deref().filter(|path| !path.is_empty());
        let program = path.unwrap_or(name);
        let program = program.rsplit('/').next().unwrap_or(program);
        // A shim is named in either form: io.containerd.runsc.v1, containerd-shim-runsc-v1.
        let parts: Vec<&str> = program.split(['.', '-']).collect();
        if parts.contains(&"runsc") {
            Self::Gvisor
        } else if parts.contains(&"kata") {
            Self::Kata
        } else {
            Self::Plain
        }
    }
}

/// One runtime that an engine knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Runtime {
    /// Its name in the engine.
    pub(crate) name: String,
    pub(crate) kind: RuntimeKind,
}

/// Every runtime that an engine has registered, sorted by name.
pub(crate) fn registered(info: &SystemInfo) -> Vec<Runtime> {
    let none = HashMap::new();
    let runtimes = info.runtimes.as_ref().unwrap_or(&none);
    let mut all: Vec<Runtime> = runtimes
        .iter()
        .map(|(name, registered)| Runtime {
            name: name.clone(),
            kind: RuntimeKind::of(name, registered),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The configured runtime among the registered ones. A shim with a full name
/// (`io.containerd.kata.v2`) need not be registered: the engine finds its program by itself.
///
/// # Errors
/// `Unavailable`, with the registered runtimes.
pub(crate) fn configured(all: &[Runtime], wanted: &str) -> Result<Runtime, ProviderError> {
    if let Some(found) = all.iter().find(|runtime| runtime.name == wanted) {
        return Ok(found.clone());
    }
    if wanted.starts_with("io.containerd.") {
        let name = wanted.to_owned();
        let kind = RuntimeKind::of(wanted, &Registered::default());
        return Ok(Runtime { name, kind });
    }
    let names: Vec<&str> = all.iter().map(|runtime| runtime.name.as_str()).collect();
    Err(ProviderError::Unavailable(format!(
        "providers.docker.runtime: the engine has no runtime {wanted:?}, it has {}; hint: register it in the engine's daemon.json, or name one of these",
        names.join(", ")
    )))
}

/// The configured runtime first, then for each stronger level the first one by name, weakest level
/// first.
pub(crate) fn offered(all: &[Runtime], configured: &Runtime) -> Vec<Runtime> {
    let mut offered = vec![configured.clone()];
    for level in [Isolation::UserspaceKernel, Isolation::Vm] {
        let weakest = configured.kind.isolation();
        let stronger = level != weakest && level.satisfies(weakest);
        let found = all.iter().find(|runtime| runtime.kind.isolation() == level);
        offered.extend(found.filter(|_| stronger).cloned());
    }
    offered
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn engine(runtimes: &[(&str, Option<&str>)]) -> Vec<Runtime> {
        let runtimes = runtimes.iter().map(|(name, path)| {
            let path = path.map(str::to_owned);
            let registered = Registered {
                path,
                ..Registered::default()
            };
            ((*name).to_owned(), registered)
        });
        registered(&SystemInfo {
            runtimes: Some(runtimes.collect()),
            ..SystemInfo::default()
        })
    }

    #[test]
    fn the_program_says_what_a_runtime_is() {
        let all = engine(&[
            ("runc", Some("runc")),
            ("safe", Some("/usr/local/bin/runsc")),
            ("kata-runtime", Some("/opt/kata/bin/kata-runtime")),
            ("kata", None),
            ("io.containerd.runsc.v1", None),
            ("shim", Some("containerd-shim-kata-v2")),
            ("runsc", Some("/usr/bin/runc")),
            ("mine", None),
        ]);
        let kind = |name: &str| configured(&all, name).unwrap().kind;
        assert_eq!(kind("runc"), RuntimeKind::Plain);
        assert_eq!(kind("safe"), RuntimeKind::Gvisor);
        assert_eq!(kind("kata-runtime"), RuntimeKind::Kata);
        assert_eq!(kind("kata"), RuntimeKind::Kata);
        assert_eq!(kind("io.containerd.runsc.v1"), RuntimeKind::Gvisor);
        assert_eq!(kind("io.containerd.kata.v2"), RuntimeKind::Kata);
        assert_eq!(kind("shim"), RuntimeKind::Kata);
        assert_eq!(
            kind("runsc"),
            RuntimeKind::Plain,
            "a name alone proves nothing"
        );
        assert_eq!(kind("mine"), RuntimeKind::Plain);
    }

    #[test]
    fn a_runtime_that_is_not_there_is_named_with_those_that_are() {
        let all = engine(&[("runsc", Some("runsc")), ("runc", Some("runc"))]);
        let error = configured(&all, "kata-runtime").unwrap_err().to_string();
        assert!(error.contains("no runtime \"kata-runtime\""), "{error}");
        assert!(error.contains("it has runc, runsc;"), "{error}");
    }

    #[test]
    fn stronger_runtimes_are_offered_weakest_first() {
        let all = engine(&[
            ("kata", Some("kata-runtime")),
            ("runc", Some("runc")),
            ("runsc", Some("runsc")),
            ("runsc-kvm", Some("runsc")),
        ]);
        let names = |usual: &str| -> Vec<String> {
            let usual = configured(&all, usual).unwrap();
            let offered = offered(&all, &usual).into_iter();
            offered.map(|runtime| runtime.name).collect()
        };
        assert_eq!(names("runc"), ["runc", "runsc", "kata"]);
        assert_eq!(names("runsc-kvm"), ["runsc-kvm", "kata"]);
        assert_eq!(names("kata"), ["kata"]);
    }
}
