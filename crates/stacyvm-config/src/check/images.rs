//! Aliases that lead nowhere, and registries that are none.

use std::collections::BTreeMap;

use stacyvm_types::Cidr;

use super::findings::Findings;
use crate::Config;

/// More connections to one registry than this are taken for an attack.
const MAX_PARALLEL: u32 = 16;

pub(super) fn check(config: &Config, found: &mut Findings<'_>) {
    let images = &config.images;
    aliases(&images.aliases, found);
    for (registry, mirrors) in &images.mirrors {
        let key = "images.mirrors";
        if !is_registry(registry) {
            found.add(
                key,
                format!("{registry:?} is no registry"),
                Some(REGISTRY.to_owned()),
            );
        }
        for mirror in mirrors.all() {
            if let Err(reason) = mirror_address(mirror) {
                // The address itself is not shown: it may have a password in it.
                found.add(key, format!("a mirror of {registry}: {reason}"), None);
            }
        }
    }
    for registry in &images.insecure_registries {
        if !is_registry(registry) {
            found.add(
                "images.insecure_registries",
                format!("{registry:?} is no registry"),
                Some(REGISTRY.to_owned()),
            );
        }
    }
    for registry in &images.private_registries {
        let good = match registry.contains('/') {
            true => registry.parse::<Cidr>().is_ok(),
            false => is_registry(registry),
        };
        if !good {
            found.add(
                "images.private_registries",
                format!("{registry:?} is no registry and no range"),
                Some("write it as HOST, HOST:PORT, or as a range like 10.1.0.0/16".to_owned()),
            );
        }
    }
    for (registry, hosts) in &images.token_hosts {
        for name in std::iter::once(registry).chain(hosts.all()) {
            if !is_registry(name) {
                found.add(
                    "images.token_hosts",
                    format!("{name:?} is no host"),
                    Some(REGISTRY.to_owned()),
                );
            }
        }
    }
    if !(1..=MAX_PARALLEL).contains(&images.max_parallel) {
        found.add(
            "images.max_parallel",
            format!("it must be from 1 to {MAX_PARALLEL}"),
            None,
        );
    }
    if images
        .platform
        .as_deref()
        .is_some_and(|text| !is_platform(text))
    {
        found.add(
            "images.platform",
            "it is no platform",
            Some("write it like linux/amd64 or linux/arm/v7".to_owned()),
        );
    }
}

const REGISTRY: &str = "write it as HOST or HOST:PORT, without https://";

fn aliases(aliases: &BTreeMap<String, String>, found: &mut Findings<'_>) {
    let key = "images.aliases";
    for (name, target) in aliases {
        if name.is_empty() || target.is_empty() {
            found.add(key, "a name is empty", None);
        }
        let mut at = target;
        for _ in 0..aliases.len() {
            if at == name {
                found.add(key, format!("{name:?} stands for itself in the end"), None);
                break;
            }
            match aliases.get(at) {
                Some(next) => at = next,
                None => break,
            }
        }
    }
}

/// A host name or an address, with a port perhaps.
fn is_registry(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(['-', ':'])
        && text.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']')
        })
}

/// `https://HOST[:PORT][/PREFIX]`, `http://…`, or without a scheme.
fn mirror_address(text: &str) -> Result<(), &'static str> {
    let rest = match text.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some(_) => return Err("the address must begin with https:// or http://"),
        None => text,
    };
    if rest.contains('@') {
        return Err("a login belongs into Docker's config.json, not into the address");
    }
    let host = rest.split('/').next().unwrap_or_default();
    if is_registry(host) && !rest.contains(['?', '#', ' ']) {
        Ok(())
    } else {
        Err("the address must be like https://mirror.example.org")
    }
}

fn is_platform(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    matches!(parts.len(), 2 | 3) && parts.iter().all(word)
}
