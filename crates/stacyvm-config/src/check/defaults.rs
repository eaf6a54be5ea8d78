//! What a sandbox gets when its spawn does not say, and the limits of what it may say.

use stacyvm_types::GoDuration;

use super::findings::Findings;
use crate::{Config, DefaultsConfig};

/// The smallest disk that a file system fits on, MiB.
const MIN_DISK_MB: u64 = 16;
/// With fewer open files many programs do not start; the kernel's own bound is the other end
/// (`fs.nr_open`'s default).
const MIN_OPEN_FILES: u64 = 64;
const MAX_OPEN_FILES: u64 = 1_048_576;

pub(super) fn check(config: &Config, found: &mut Findings<'_>) {
    times(config, found);
    sizes(&config.defaults, found);
    processors(&config.defaults, found);
    counts(&config.defaults, found);
}

/// Times, each alone and against its limit.
fn times(config: &Config, found: &mut Findings<'_>) {
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
}

/// Memory and disk against their limits.
fn sizes(defaults: &DefaultsConfig, found: &mut Findings<'_>) {
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
    if (1..MIN_DISK_MB).contains(&defaults.disk_mb) {
        let reason = format!("it must be at least {MIN_DISK_MB}, or 0 for no limit");
        found.add("defaults.disk_mb", reason, None);
    }
}

fn processors(defaults: &DefaultsConfig, found: &mut Findings<'_>) {
    let (vcpus, most) = (defaults.vcpus, defaults.max_vcpus);
    if vcpus.is_none() {
        found.add("defaults.vcpus", "it must be at least 0.05", None);
    } else if !most.is_none() && vcpus > most {
        let reason = format!("{vcpus} is over defaults.max_vcpus, which is {most}");
        found.add("defaults.vcpus", reason, None);
    }
}

/// Everything that is counted.
fn counts(defaults: &DefaultsConfig, found: &mut Findings<'_>) {
    if defaults.open_files < MIN_OPEN_FILES || defaults.open_files > MAX_OPEN_FILES {
        let reason = format!("it must be from {MIN_OPEN_FILES} to {MAX_OPEN_FILES}");
        found.add("defaults.open_files", reason, None);
    }
    if defaults.pids_limit == 0 {
        found.add("defaults.pids_limit", "it must be at least 1", None);
    }
    if defaults.max_output_bytes == 0 {
        found.add("defaults.max_output_bytes", "it must be at least 1", None);
    }
}
