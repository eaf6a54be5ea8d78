//! The request for a container, key by key.
#![allow(clippy::unwrap_used)]

use stacyvm_provider::NetworkMode;
use stacyvm_types::{Isolation, SandboxId};

use super::*;

fn defaults() -> ContainerDefaults {
    ContainerDefaults {
        names: EngineNames::new("tag"),
        seccomp: Seccomp::Default,
        root_caps: Capabilities::of_root(&["ALL".to_owned()], &[]).unwrap(),
        read_only_rootfs: false,
        pids_limit: 256,
        tmp_size_mb: 32,
        shm_size_mb: 16,
    }
}

fn spec() -> BoxSpec {
    BoxSpec {
        id: SandboxId::from_u32(7),
        image: "x".to_owned(),
        isolation: Isolation::Container,
        memory_mb: 512,
        vcpus: Vcpus::from_cores(1.5).unwrap(),
        pids_limit: 100,
        open_files: 1024,
        disk_mb: None,
        read_only_rootfs: false,
        network: NetworkMode::None,
        user: None,
        workdir: None,
        env: [("KEY".to_owned(), "secret".to_owned())].into(),
    }
}

fn runtime(kind: RuntimeKind) -> Runtime {
    Runtime {
        name: "its-name".to_owned(),
        kind,
    }
}

fn asked_of(
    defaults: &ContainerDefaults,
    spec: &BoxSpec,
    kind: RuntimeKind,
    max_open_files: u64,
) -> ContainerCreateBody {
    let resolved = Resolved {
        image: "sha256:abc",
        runtime: &runtime(kind),
        agent: &AgentSource::File("/agent".to_owned()),
        user: AgentUser::Default,
        network: "none",
        name_servers: None,
        cores: Some(2),
        max_open_files,
        labels: HashMap::from([("more".to_owned(), "yes".to_owned())]),
    };
    container_body(defaults, spec, &resolved).unwrap()
}

fn asked() -> ContainerCreateBody {
    asked_of(&defaults(), &spec(), RuntimeKind::Plain, u64::MAX)
}

#[test]
fn limits_hold_and_swap_adds_nothing() {
    let host = asked().host_config.unwrap();
    assert_eq!(host.memory, Some(512 << 20));
    assert_eq!(host.memory_swap, host.memory);
    assert_eq!(host.oom_kill_disable, Some(false));
    assert_eq!(host.nano_cpus, Some(1_500_000_000));
    assert_eq!(host.pids_limit, Some(100));
    assert_eq!(host.shm_size, Some(16 << 20));
    assert_eq!(host.oom_score_adj, None);
    let ulimits = host.ulimits.unwrap();
    assert_eq!(ulimits[0].name.as_deref(), Some("nofile"));
    assert_eq!((ulimits[0].soft, ulimits[0].hard), (Some(1024), Some(1024)));
    assert_eq!(ulimits[1].hard, Some(0));
}

#[test]
fn what_the_machine_cannot_give_is_cut() {
    let mut spec = spec();
    spec.vcpus = Vcpus::whole(64);
    spec.pids_limit = 10_000;
    spec.open_files = 1_000_000;
    let host = asked_of(&defaults(), &spec, RuntimeKind::Plain, 20_000);
    let host = host.host_config.unwrap();
    assert_eq!(host.nano_cpus, Some(2_000_000_000));
    assert_eq!(host.pids_limit, Some(256));
    assert_eq!(host.ulimits.unwrap()[0].hard, Some(20_000));
}

#[test]
fn gvisor_has_room_for_its_own_threads() {
    let host = asked_of(&defaults(), &spec(), RuntimeKind::Gvisor, u64::MAX);
    let host = host.host_config.unwrap();
    assert_eq!(host.pids_limit, Some(1124));
    assert_eq!(host.runtime.as_deref(), Some("its-name"));
    let kata = asked_of(&defaults(), &spec(), RuntimeKind::Kata, u64::MAX);
    let kata = kata.host_config.unwrap();
    assert_eq!(kata.pids_limit, Some(100));
    // A virtual machine gets its size by the same two limits.
    assert_eq!(kata.memory, Some(512 << 20));
    assert_eq!(kata.nano_cpus, Some(1_500_000_000));
    assert_eq!(kata.privileged, Some(false));
}

#[test]
fn absurd_memory_is_refused() {
    for mb in [0, 5, u64::MAX, u64::MAX / MIB] {
        assert!(matches!(memory(mb), Err(ProviderError::Invalid(_))), "{mb}");
    }
}

#[test]
fn nothing_that_weakens_is_left_to_the_engine() {
    let host = asked().host_config.unwrap();
    assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
    assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
    assert_eq!(
        host.cap_add.unwrap(),
        ["CHOWN", "KILL", "SETGID", "SETUID", "SETPCAP"]
    );
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.network_mode.as_deref(), Some("none"));
    assert_eq!(host.ipc_mode.as_deref(), Some("private"));
    let private = HostConfigCgroupnsModeEnum::PRIVATE;
    assert_eq!(host.cgroupns_mode, Some(private));
    assert_eq!(host.pid_mode, None, "which means its own");
    assert_eq!(host.init, Some(false));
    assert_eq!(host.log_config.unwrap().typ.as_deref(), Some("none"));
    let never = RestartPolicyNameEnum::NO;
    assert_eq!(host.restart_policy.unwrap().name, Some(never));
}

#[test]
fn seccomp_is_handed_on() {
    let mut defaults = defaults();
    defaults.seccomp = Seccomp::Unconfined;
    let host = asked_of(&defaults, &spec(), RuntimeKind::Plain, 1)
        .host_config
        .unwrap();
    let options = host.security_opt.unwrap();
    assert_eq!(options, ["no-new-privileges", "seccomp=unconfined"]);
}

#[test]
fn a_writable_root_needs_no_mounts_of_its_own() {
    let host = asked().host_config.unwrap();
    assert_eq!(host.readonly_rootfs, Some(false));
    assert_eq!(host.mounts.unwrap().len(), 1);
    assert_eq!(host.tmpfs.unwrap().len(), 1);
    assert_eq!(host.storage_opt, None);
}

#[test]
fn a_read_only_root_has_two_places_to_write_to() {
    let mut by_spec = spec();
    by_spec.read_only_rootfs = true;
    let mut by_default = defaults();
    by_default.read_only_rootfs = true;
    for body in [
        asked_of(&defaults(), &by_spec, RuntimeKind::Plain, 1),
        asked_of(&by_default, &spec(), RuntimeKind::Plain, 1),
    ] {
        let host = body.host_config.unwrap();
        assert_eq!(host.readonly_rootfs, Some(true));
        let mounts = host.mounts.unwrap();
        let workspace = &mounts[1];
        assert_eq!(workspace.target.as_deref(), Some("/workspace"));
        let volume = workspace.source.as_deref();
        assert_eq!(volume, Some("stacyvm-tag-sb-00000007-workspace"));
        let labels = workspace.volume_options.clone().unwrap().labels.unwrap();
        assert_eq!(labels["stacyvm.instance"], "tag");
        let tmp = &host.tmpfs.unwrap()["/tmp"];
        assert!(tmp.contains(",exec,") && tmp.contains("size=32m"), "{tmp}");
    }
}

#[test]
fn a_limit_of_disk_is_the_storage_drivers() {
    let mut spec = spec();
    spec.disk_mb = Some(100);
    let host = asked_of(&defaults(), &spec, RuntimeKind::Plain, 1)
        .host_config
        .unwrap();
    assert_eq!(host.storage_opt.unwrap()["size"], "100m");
}

#[test]
fn the_agent_is_what_runs_and_no_secret_is_on_the_way() {
    let body = asked();
    assert_eq!(body.entrypoint.as_ref().unwrap(), &[agent::PROGRAM]);
    assert_eq!(body.user.as_deref(), Some("0:0"));
    assert_eq!(body.working_dir.as_deref(), Some("/"));
    assert_eq!(body.image.as_deref(), Some("sha256:abc"));
    assert_eq!(
        (body.open_stdin, body.stdin_once, body.tty),
        (Some(true), Some(false), Some(false))
    );
    assert_eq!(body.env, None, "variables are told to the agent");
    assert_eq!(body.healthcheck.clone().unwrap().test.unwrap(), ["NONE"]);
    assert_eq!(body.hostname.as_deref(), Some("sb-00000007"));
    let labels = body.labels.as_ref().unwrap();
    assert_eq!(labels["stacyvm.sandbox"], "sb-00000007");
    assert_eq!(labels["more"], "yes");
    assert!(!serde_json::to_string(&body).unwrap().contains("secret"));
}
