//! From what a sandbox is to have to what the engine is asked for.
//!
//! Pure: nothing here asks the engine. Its rule: what is not said leaves the engine no choice that
//! could weaken a sandbox, so also defaults are written down.

mod capabilities;
mod seccomp;

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig,
    Mount, MountType, MountVolumeOptions, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use stacyvm_provider::{BoxSpec, ProviderError};
use stacyvm_types::Vcpus;

use crate::agent::{self, Source, User};
use crate::names::Names;
use crate::runtimes::{Kind, Runtime};
pub(crate) use capabilities::Capabilities;
pub use seccomp::Seccomp;

const MIB: u64 = 1024 * 1024;
/// With less the engine makes no container.
const LEAST_MEMORY_MB: u64 = 6;
/// gVisor's kernel is a process whose threads count against the limit: under about this many of
/// its own it is killed, and the sandbox with it.
const GVISOR_THREADS: u32 = 1024;

/// What of a sandbox's surroundings the operator chose.
#[derive(Clone, Debug)]
pub(crate) struct House {
    pub(crate) names: Names,
    pub(crate) seccomp: Seccomp,
    pub(crate) root_caps: Capabilities,
    pub(crate) read_only_rootfs: bool,
    pub(crate) pids_limit: u32,
    pub(crate) tmp_size_mb: u64,
    pub(crate) shm_size_mb: u64,
}

/// What was found out for one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Found<'a> {
    /// The image, by its id.
    pub(crate) image: &'a str,
    pub(crate) runtime: &'a Runtime,
    pub(crate) agent: &'a Source,
    pub(crate) user: User<'a>,
    /// What it is connected to, in the engine's words.
    pub(crate) network: &'a str,
    /// Whom it asks for names; none leaves that to the engine.
    pub(crate) name_servers: Option<Vec<String>>,
    /// Cores that the engine's machine has; none when it did not say.
    pub(crate) cores: Option<u32>,
    /// Open files that a process can be given at most.
    pub(crate) most_files: u64,
    /// Further labels.
    pub(crate) labels: HashMap<String, String>,
}

/// Everything about one container, for the engine.
///
/// # Errors
/// `Invalid` for limits that the engine would refuse.
pub(crate) fn container(
    house: &House,
    spec: &BoxSpec,
    found: &Found<'_>,
) -> Result<ContainerCreateBody, ProviderError> {
    let read_only = house.read_only_rootfs || spec.read_only_rootfs;
    let memory = memory(spec.memory_mb)?;
    let mut mounts = vec![found.agent.mount()];
    let mut tmpfs = HashMap::from([(agent::RUN_DIR.to_owned(), agent::RUN_OPTIONS.to_owned())]);
    if read_only {
        mounts.push(workspace(house, spec));
        tmpfs.insert("/tmp".to_owned(), tmp_options(house.tmp_size_mb));
    }
    let host = HostConfig {
        memory: Some(memory),
        // Swap counts in, so there is none beyond.
        memory_swap: Some(memory),
        oom_kill_disable: Some(false),
        nano_cpus: Some(nano_cpus(spec.vcpus, found.cores)),
        pids_limit: Some(pids(spec.pids_limit.min(house.pids_limit), found.runtime).into()),
        ulimits: Some(ulimits(spec.open_files.min(found.most_files))),
        init: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        network_mode: Some(found.network.to_owned()),
        dns: found.name_servers.clone(),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        auto_remove: Some(false),
        mounts: Some(mounts),
        tmpfs: Some(tmpfs),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(house.root_caps.with_the_agents()),
        security_opt: Some(security(&house.seccomp)),
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        ipc_mode: Some("private".to_owned()),
        privileged: Some(false),
        readonly_rootfs: Some(read_only),
        storage_opt: spec
            .disk_mb
            .map(|mb| HashMap::from([("size".to_owned(), format!("{mb}m"))])),
        shm_size: i64::try_from(house.shm_size_mb.saturating_mul(MIB)).ok(),
        runtime: Some(found.runtime.name.clone()),
        ..HostConfig::default()
    };
    let mut labels = found.labels.clone();
    labels.extend(house.names.labels(Some(&spec.id)));
    Ok(ContainerCreateBody {
        image: Some(found.image.to_owned()),
        hostname: Some(spec.id.to_string()),
        // The agent's; commands have the user's numbers.
        user: Some("0:0".to_owned()),
        working_dir: Some("/".to_owned()),
        entrypoint: Some(vec![agent::PROGRAM.to_owned()]),
        cmd: Some(agent::command(found.user, house.root_caps)),
        tty: Some(false),
        open_stdin: Some(true),
        // Servers come and go, the agent's input stays open.
        stdin_once: Some(false),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        // An image's own would run as root and outside of every limit of ours.
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
    if mb < LEAST_MEMORY_MB {
        return Err(ProviderError::Invalid(format!(
            "memory of a container must be at least {LEAST_MEMORY_MB} MiB"
        )));
    }
    let bytes = mb
        .checked_mul(MIB)
        .and_then(|bytes| i64::try_from(bytes).ok());
    bytes.ok_or_else(|| ProviderError::Invalid(format!("memory of {mb} MiB is absurd")))
}

/// The engine refuses more than its machine has, which would be no limit at all.
fn nano_cpus(wanted: Vcpus, cores: Option<u32>) -> i64 {
    let most = cores.map_or(u64::MAX, |cores| u64::from(cores) * 100);
    let hundredths = u64::from(wanted.hundredths()).min(most);
    i64::try_from(hundredths.saturating_mul(10_000_000)).unwrap_or(i64::MAX)
}

fn pids(wanted: u32, runtime: &Runtime) -> u32 {
    match runtime.kind {
        Kind::Gvisor => wanted.saturating_add(GVISOR_THREADS),
        Kind::Plain | Kind::Kata => wanted,
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
    // What a crash leaves would be handed to a program of the engine's machine.
    vec![limit("nofile", files), limit("core", 0)]
}

fn security(seccomp: &Seccomp) -> Vec<String> {
    let mut options = vec!["no-new-privileges".to_owned()];
    options.extend(seccomp.option());
    options
}

fn workspace(house: &House, spec: &BoxSpec) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(house.names.workspace(&spec.id)),
        target: Some("/workspace".to_owned()),
        read_only: Some(false),
        volume_options: Some(MountVolumeOptions {
            labels: Some(house.names.labels(Some(&spec.id))),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}

fn tmp_options(size_mb: u64) -> String {
    // Docker's own default forbids running what lies there, which surprises every build.
    format!("rw,exec,nosuid,nodev,size={size_mb}m,mode=1777")
}

#[cfg(test)]
mod tests;
