//! What of the Docker provider's keys cannot be.
//!
//! Only what needs no engine and no file: those are asked at the start.

use stacyvm_types::Cidr;

use super::Findings;
use crate::Config;

/// A `/tmp` or `/dev/shm` of fewer MiB serves nobody.
const LEAST_TMP: u64 = 1;

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
        if size < LEAST_TMP {
            found.add(key, format!("it must be at least {LEAST_TMP}"), None);
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
    if docker.pids_limit == 0 {
        found.add("providers.docker.pids_limit", "it must be at least 1", None);
    }
}
