//! Providers that this program does not contain, or that are both chosen and switched off.

use super::findings::Findings;
use crate::{Config, ProviderChoice, ProvidersConfig};

/// `built` names the providers that the program contains; empty skips the check.
pub(super) fn check(config: &Config, built: &[&'static str], found: &mut Findings<'_>) {
    if built.is_empty() {
        return;
    }
    let providers = &config.providers;
    not_built(providers, built, found);
    chosen_but_off(providers, found);
    let docker = built.contains(&"docker") && providers.docker.enabled != Some(false);
    let any = providers.native.enabled || providers.mock.enabled || docker;
    if providers.default == ProviderChoice::Auto && !any {
        found.add(
            "providers.native.enabled",
            "no provider is left",
            Some("enable one".to_owned()),
        );
    }
}

fn not_built(providers: &ProvidersConfig, built: &[&'static str], found: &mut Findings<'_>) {
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
}

fn chosen_but_off(providers: &ProvidersConfig, found: &mut Findings<'_>) {
    let choice = providers.default;
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
}
