//! Values of the Docker provider's keys that cannot work.
//!
//! Only what needs no engine and no file: those are asked at the start.

use stacyvm_types::Cidr;

use super::findings::Findings;
use crate::{Config, DockerConfig};

/// A `/tmp` or `/dev/shm` of fewer MiB is of no use.
const MIN_TMP_SIZE_MB: u64 = 1;

pub(super) fn check(config: &Config, found: &mut Findings<'_>) {
    let docker = &config.providers.docker;
    if docker.socket.trim().is_empty() {
        found.add(
            "providers.docker.socket",
            "it is empty",
            Some("use unix:///var/run/docker.sock, or leave it out".to_owned()),
        );
    }
    for (key, text) in [
        ("providers.docker.default_image", &docker.default_image),
        ("providers.docker.runtime", &docker.runtime),
    ] {
        if text.trim().is_empty() {
            found.add(key, "it is empty", None);
        }
    }
    let files = [
        ("providers.docker.tls_ca", &docker.tls_ca),
        ("providers.docker.tls_cert", &docker.tls_cert),
        ("providers.docker.tls_key", &docker.tls_key),
    ];
    let set = files.iter().filter(|(_, file)| file.is_some()).count();
    if set > 0 && set < files.len() {
        for (key, _) in files.iter().filter(|(_, file)| file.is_none()) {
            found.add(
                key,
                "it is missing, while another of the three TLS files is set",
                Some("set tls_ca, tls_cert and tls_key, or none of them".to_owned()),
            );
        }
    }
    for (key, size) in [
        ("providers.docker.tmp_size_mb", docker.tmp_size_mb),
        ("providers.docker.shm_size_mb", docker.shm_size_mb),
    ] {
        if size < MIN_TMP_SIZE_MB {
            found.add(key, format!("it must be at least {MIN_TMP_SIZE_MB}"), None);
        }
    }
    let fits = |range: &Cidr| range.first().is_ipv4() && (16..=28).contains(&range.bits());
    if docker.network_subnet.is_some_and(|range| !fits(&range)) {
        found.add(
            "providers.docker.network_subnet",
            "it must be a range of IPv4 of 16 to 28 bits",
            None,
        );
    }
    check_warm(docker, found);
    if docker.pids_limit == 0 {
        found.add("providers.docker.pids_limit", "it must be at least 1", None);
    }
}

fn check_warm(docker: &DockerConfig, found: &mut Findings<'_>) {
    let all = docker
        .warm
        .values()
        .map(|count| u64::from(*count))
        .sum::<u64>();
    if all > u64::from(docker.warm_max) {
        found.add(
            "providers.docker.warm",
            format!(
                "it asks for {all} containers, and warm_max allows {}",
                docker.warm_max
            ),
            Some("ask for fewer, or raise providers.docker.warm_max".to_owned()),
        );
    }
    if all > 0 && docker.read_only_rootfs {
        found.add(
            "providers.docker.warm",
            "a container made ahead has no workspace of its own, which a read-only root needs",
            Some("leave out warm, or read_only_rootfs".to_owned()),
        );
    }
    if all > 0 && docker.traefik.enabled {
        found.add(
            "providers.docker.warm",
            "a container made ahead cannot have the labels that Traefik finds it by",
            Some("leave out warm, or traefik".to_owned()),
        );
    }
}
