//! What no single value shows: values that do not fit together, or that this program cannot serve.

mod certificates;
mod docker;
mod images;
mod limits;
mod preview;

use std::collections::BTreeMap;

use stacyvm_types::GoDuration;

use crate::problem::{Origin, Problem};
use crate::{Config, ProviderChoice};

/// The smallest disk that a file system fits on, MiB.
const LEAST_DISK: u64 = 16;
/// With fewer open files many programs do not start; the kernel's own bound is the other end
/// (`fs.nr_open`'s default).
const LEAST_FILES: u64 = 64;
const MOST_FILES: u64 = 1_048_576;

/// Everything wrong with values that each have the right type. `built` names the providers that
/// the program contains; empty skips that check, as does no word on whether it can send spans.
pub(crate) fn check(
    config: &Config,
    origins: &BTreeMap<String, Origin>,
    built: &[&'static str],
    sends_spans: Option<bool>,
) -> Vec<Problem> {
    let mut found = Findings {
        origins,
        problems: Vec::new(),
    };
    auth(config, &mut found);
    defaults(config, &mut found);
    docker::check(config, &mut found);
    images::check(config, &mut found);
    limits::check(config, &mut found);
    preview::check(config, &mut found);
    certificates::check(config, &mut found);
    providers(config, built, &mut found);
    if sends_spans == Some(false) && !config.telemetry.otlp_endpoint.is_empty() {
        found.add(
            "telemetry.otlp_endpoint",
            "this program was built without the feature otlp",
            Some("build it with --features otlp, or take the key out".to_owned()),
        );
    }
    if config.pool.enabled {
        found.add(
            "pool.enabled",
            "pool mode is not in this version",
            Some("set it to false".to_owned()),
        );
    }
    if config.server.host.trim().is_empty() {
        found.add(
            "server.host",
            "it is empty",
            Some("use 127.0.0.1, or 0.0.0.0 for every address".to_owned()),
        );
    }
    found.problems
}

struct Findings<'a> {
    origins: &'a BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl Findings<'_> {
    fn add(&mut self, key: &str, reason: impl Into<String>, hint: Option<String>) {
        self.problems.push(Problem {
            origin: self.origins.get(key).cloned().unwrap_or(Origin::Default),
            key: key.to_owned(),
            reason: reason.into(),
            hint,
        });
    }

    fn is_set(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }
}

fn auth(config: &Config, found: &mut Findings<'_>) {
    let key = config.auth.api_key.expose();
    if config.auth.enabled && key.is_empty() {
        found.add(
            "auth.enabled",
            "it is true, but no key is set",
            Some("set auth.api_key, or the environment variable STACYVM_AUTH_API_KEY".to_owned()),
        );
    }
    if key.trim() != key || !key.chars().all(|c| c.is_ascii_graphic()) {
        found.add(
            "auth.api_key",
            "a key travels in an HTTP header: visible ASCII characters only, no white space",
            None,
        );
    }
}

fn defaults(config: &Config, found: &mut Findings<'_>) {
    let defaults = &config.defaults;
    if !defaults.ttl.is_positive() {
        found.add("defaults.ttl", "it must be longer than 0s", None);
    }
    for (key, value) in [
        (
            "defaults.default_exec_timeout",
            defaults.default_exec_timeout,
        ),
        ("defaults.max_exec_timeout", defaults.max_exec_timeout),
        ("defaults.max_ttl", defaults.max_ttl),
        ("server.shutdown_timeout", config.server.shutdown_timeout),
        ("pool.queue_timeout", config.pool.queue_timeout),
    ] {
        if value < GoDuration::ZERO {
            found.add(key, "it must not be negative", None);
        }
    }
    for (key, value, limit_key, limit) in [
        (
            "defaults.ttl",
            defaults.ttl,
            "defaults.max_ttl",
            defaults.max_ttl,
        ),
        (
            "defaults.default_exec_timeout",
            defaults.default_exec_timeout,
            "defaults.max_exec_timeout",
            defaults.max_exec_timeout,
        ),
    ] {
        if limit.is_positive() && value > limit {
            found.add(
                key,
                format!("{value} is over {limit_key}, which is {limit}"),
                None,
            );
        }
    }
    for (key, value, limit_key, limit) in [
        (
            "defaults.memory_mb",
            defaults.memory_mb,
            "defaults.max_memory_mb",
            defaults.max_memory_mb,
        ),
        (
            "defaults.disk_mb",
            defaults.disk_mb,
            "defaults.max_disk_mb",
            defaults.max_disk_mb,
        ),
    ] {
        if value == 0 && key == "defaults.memory_mb" {
            found.add(key, "it must be at least 1", None);
        } else if limit > 0 && value > limit {
            found.add(
                key,
                format!("{value} is over {limit_key}, which is {limit}"),
                None,
            );
        }
    }
    let (vcpus, most) = (defaults.vcpus, defaults.max_vcpus);
    if vcpus.is_none() {
        found.add("defaults.vcpus", "it must be at least 0.05", None);
    } else if !most.is_none() && vcpus > most {
        let reason = format!("{vcpus} is over defaults.max_vcpus, which is {most}");
        found.add("defaults.vcpus", reason, None);
    }
    if (1..LEAST_DISK).contains(&defaults.disk_mb) {
        let reason = format!("it must be at least {LEAST_DISK}, or 0 for no limit");
        found.add("defaults.disk_mb", reason, None);
    }
    if defaults.open_files < LEAST_FILES || defaults.open_files > MOST_FILES {
        let reason = format!("it must be from {LEAST_FILES} to {MOST_FILES}");
        found.add("defaults.open_files", reason, None);
    }
    if defaults.pids_limit == 0 {
        found.add("defaults.pids_limit", "it must be at least 1", None);
    }
    if defaults.max_output_bytes == 0 {
        found.add("defaults.max_output_bytes", "it must be at least 1", None);
    }
}

fn providers(config: &Config, built: &[&'static str], found: &mut Findings<'_>) {
    if built.is_empty() {
        return;
    }
    let providers = &config.providers;
    let list = built.join(", ");
    let choice = providers.default;
    if choice != ProviderChoice::Auto && !built.contains(&choice.as_str()) {
        found.add(
            "providers.default",
            format!("this version has no provider {:?}", choice.as_str()),
            Some(format!("use auto, or one of: {list}")),
        );
    }
    for (name, enabled) in [
        ("docker", providers.docker.enabled == Some(true)),
        ("firecracker", providers.firecracker.enabled),
        ("e2b", providers.e2b.enabled),
        ("custom", providers.custom.enabled),
        ("proot", providers.proot.enabled),
    ] {
        if enabled && !built.contains(&name) {
            found.add(
                &format!("providers.{name}.enabled"),
                format!("this version has no provider {name:?}"),
                Some(format!("set it to false; this version has: {list}")),
            );
        }
    }
    let off = |key: &str, enabled: bool, found: &Findings<'_>| !enabled && found.is_set(key);
    for (name, key, enabled) in [
        (
            "native",
            "providers.native.enabled",
            providers.native.enabled,
        ),
        ("mock", "providers.mock.enabled", providers.mock.enabled),
        (
            "docker",
            "providers.docker.enabled",
            providers.docker.enabled != Some(false),
        ),
    ] {
        if choice.as_str() == name && off(key, enabled, found) {
            found.add(
                "providers.default",
                format!("it names {name:?}, but {key} is false"),
                None,
            );
        }
    }
    let docker = built.contains(&"docker") && providers.docker.enabled != Some(false);
    let any = providers.native.enabled || providers.mock.enabled || docker;
    if choice == ProviderChoice::Auto && !any {
        found.add(
            "providers.native.enabled",
            "no provider is left",
            Some("enable one".to_owned()),
        );
    }
}
