//! The translation of a sandbox's spec into the engine's request for its container.
//!
//! Everything here is pure. The one rule: every parameter that could weaken a sandbox is set
//! explicitly, also where the engine's default would do.

mod capabilities;
mod seccomp;

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig,
    Mount, MountType, MountVolumeOptions, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use stacyvm_provider::{BoxSpec, ProviderError};
use stacyvm_types::Vcpus;

use crate::agent::{self, AgentSource, AgentUser};
use crate::names::EngineNames;
use crate::runtimes::{Runtime, RuntimeKind};
pub(crate) use capabilities::Capabilities;
pub use seccomp::Seccomp;

const MIB: u64 = 1024 * 1024;
/// The engine refuses containers with less memory.
const MIN_MEMORY_MB: u64 = 6;
/// gVisor's kernel is a process whose threads count against the limit of processes. With fewer than
/// about this many threads of its own it is killed, and the sandbox with it.
const GVISOR_THREADS: u32 = 1024;

/// The operator's choices for every container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerDefaults {
    pub(crate) names: EngineNames,
    pub(crate) seccomp: Seccomp,
    pub(crate) root_caps: Capabilities,
    pub(crate) read_only_rootfs: bool,
    pub(crate) pids_limit: u32,
    pub(crate) tmp_size_mb: u64,
    pub(crate) shm_size_mb: u64,
}

/// What was determined for one sandbox in addition to its spec.
#[derive(Clone, Debug)]
pub(crate) struct Resolved<'a> {
    /// The image's id.
    pub(crate) image: &'a str,
    pub(crate) runtime: &'a Runtime,
    pub(crate) agent: &'a AgentSource,
    pub(crate) user: AgentUser<'a>,
    /// Its network, by its name in the engine.
    pub(crate) network: &'a str,
    /// Its name servers; none leaves them to the engine.
    pub(crate) name_servers: Option<Vec<String>>,
    /// The cores of the engine's machine, where known.
    pub(crate) cores: Option<u32>,
    /// The most open files that the engine can give to a process.
    pub(crate) max_open_files: u64,
    /// Further labels.
    pub(crate) labels: HashMap<String, String>,
}

/// The request for one container.
///
/// # Errors
/// `Invalid` for limits that the engine would refuse.
pub(crate) fn container_body(
    defaults: &ContainerDefaults,
    spec: &BoxSpec,
    resolved: &Resolved<'_>,
) -> Result<ContainerCreateBody, ProviderError> {
    let read_only = defaults.read_only_rootfs || spec.read_only_rootfs;
    let memory = memory(spec.memory_mb)?;
    let mut mounts = vec![resolved.agent.mount()];
    let mut tmpfs = HashMap::from([(agent::RUN_DIR.to_owned(), agent::RUN_OPTIONS.to_owned())]);
    if read_only {
        mounts.push(workspace(defaults, spec));
        tmpfs.insert("/tmp".to_owned(), tmp_options(defaults.tmp_size_mb));
    }
    let host = HostConfig {
        memory: Some(memory),
        // This limit includes swap, so an equal one leaves no swap.
        memory_swap: Some(memory),
        oom_kill_disable: Some(false),
        nano_cpus: Some(nano_cpus(spec.vcpus, resolved.cores)),
        pids_limit: Some(pids(spec.pids_limit.min(defaults.pids_limit), resolved.runtime).into()),
        ulimits: Some(ulimits(spec.open_files.min(resolved.max_open_files))),
        init: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        network_mode: Some(resolved.network.to_owned()),
        dns: resolved.name_servers.clone(),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        auto_remove: Some(false),
        mounts: Some(mounts),
        tmpfs: Some(tmpfs),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(defaults.root_caps.with_agents_own()),
        security_opt: Some(security(&defaults.seccomp)),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        ipc_mode: Some("private".to_owned()),
        privileged: Some(false),
        readonly_rootfs: Some(read_only),
        storage_opt: spec
            .disk_mb
            .map(|mb| HashMap::from([("size".to_owned(), format!("{mb}m"))])),
        shm_size: i64::try_from(defaults.shm_size_mb.saturating_mul(MIB)).ok(),
        runtime: Some(resolved.runtime.name.clone()),
        ..HostConfig::default()
    };
    let mut labels = resolved.labels.clone();
    labels.extend(defaults.names.labels(Some(&spec.id)));
    Ok(ContainerCreateBody {
        image: Some(resolved.image.to_owned()),
        hostname: Some(spec.id.to_string()),
        // The agent's user; commands run as the sandbox's.
        user: Some("0:0".to_owned()),
        working_dir: Some("/".to_owned()),
        entrypoint: Some(vec![agent::PROGRAM.to_owned()]),
        cmd: Some(agent::command(resolved.user, defaults.root_caps)),
        tty: Some(false),
        open_stdin: Some(true),
        // The agent's input stays open when a server disconnects.
        stdin_once: Some(false),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        // The image's own health check would run as root and without the agent's limits.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        labels: Some(labels),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}

fn memory(mb: u64) -> Result<i64, ProviderError> {
    if mb < MIN_MEMORY_MB {
        return Err(ProviderError::Invalid(format!(
            "memory of a container must be at least {MIN_MEMORY_MB} MiB"
        )));
    }
    let bytes = mb
        .checked_mul(MIB)
        .and_then(|bytes| i64::try_from(bytes).ok());
    bytes.ok_or_else(|| ProviderError::Invalid(format!("memory of {mb} MiB is absurd")))
}

/// The limit of processors, cut to the cores of the machine, because the engine refuses more.
fn nano_cpus(wanted: Vcpus, cores: Option<u32>) -> i64 {
    let most = cores.map_or(u64::MAX, |cores| u64::from(cores) * 100);
    let hundredths = u64::from(wanted.hundredths()).min(most);
    i64::try_from(hundredths.saturating_mul(10_000_000)).unwrap_or(i64::MAX)
}

fn pids(wanted: u32, runtime: &Runtime) -> u32 {
    match runtime.kind {
        RuntimeKind::Gvisor => wanted.saturating_add(GVISOR_THREADS),
        RuntimeKind::Plain | RuntimeKind::Kata => wanted,
    }
}

fn ulimits(files: u64) -> Vec<ResourcesUlimits> {
    let limit = |name: &str, value: u64| {
        let value = i64::try_from(value).ok();
        ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: value,
            hard: value,
        }
    };
    // Without core dumps, which would go to a program of the engine's machine.
    vec![limit("nofile", files), limit("core", 0)]
}

fn security(seccomp: &Seccomp) -> Vec<String> {
    let mut options = vec!["no-new-privileges".to_owned()];
    options.extend(seccomp.option());
    options
}

fn workspace(defaults: &ContainerDefaults, spec: &BoxSpec) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(defaults.names.workspace(&spec.id)),
        target: Some("/workspace".to_owned()),
        read_only: Some(false),
        volume_options: Some(MountVolumeOptions {
            labels: Some(defaults.names.labels(Some(&spec.id))),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}

fn tmp_options(size_mb: u64) -> String {
    // Docker's own default is noexec, which breaks builds.
    format!("rw,exec,nosuid,nodev,size={size_mb}m,mode=1777")
}

#[cfg(test)]
mod tests;
