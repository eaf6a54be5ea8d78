//! Which crate may depend on which. The tables below are the rule; ARCHITECTURE.md draws them.

use anyhow::{Context, Result};
use serde_json::Value;

use super::findings::Findings;
use crate::workspace::Workspace;

/// A crate, what it may use, and what its tests may use beside that.
pub(super) type Row = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

/// Crates of ours. One that is not here breaks the rule: a new room is drawn before it is built.
pub(super) const OURS: &[Row] = &[
    ("stacyvm-types", &[], &[]),
    ("stacyvm-config", &["stacyvm-types"], &[]),
    ("stacyvm-proto", &[], &[]),
    ("stacyvm-sys", &[], &[]),
    ("stacyvm-tar", &["stacyvm-sys"], &[]),
    (
        "stacyvm-agent",
        &[
            "stacyvm-proto",
            "stacyvm-sys",
            "stacyvm-tar",
            "stacyvm-types",
        ],
        &["stacyvm-agent-client"],
    ),
    (
        "stacyvm-agent-client",
        &["stacyvm-proto", "stacyvm-types"],
        &[],
    ),
    (
        "stacyvm-launcher",
        &["stacyvm-agent", "stacyvm-sys"],
        &["stacyvm-agent-client"],
    ),
    (
        "stacyvm-provider",
        &["stacyvm-agent-client", "stacyvm-types"],
        &["stacyvm-proto"],
    ),
    ("stacyvm-stream", &[], &[]),
    (
        "stacyvm-egress",
        &["stacyvm-stream", "stacyvm-sys", "stacyvm-types"],
        &[],
    ),
    ("stacyvm-firewall", &["stacyvm-sys", "stacyvm-types"], &[]),
    (
        "stacyvm-image",
        &["stacyvm-sys", "stacyvm-tar", "stacyvm-types"],
        &[],
    ),
    (
        "stacyvm-native",
        &[
            "stacyvm-egress",
            "stacyvm-firewall",
            "stacyvm-image",
            "stacyvm-launcher",
            "stacyvm-provider",
            "stacyvm-sys",
            "stacyvm-types",
        ],
        &[],
    ),
    (
        "stacyvm-mock",
        &["stacyvm-provider", "stacyvm-sys", "stacyvm-types"],
        &[],
    ),
    (
        "stacyvm-docker",
        &[
            "stacyvm-firewall",
            "stacyvm-image",
            "stacyvm-provider",
            "stacyvm-sys",
            "stacyvm-types",
        ],
        &[],
    ),
    ("stacyvm-store", &["stacyvm-types"], &[]),
    (
        "stacyvm-orchestrator",
        &["stacyvm-provider", "stacyvm-store", "stacyvm-types"],
        &["stacyvm-mock"],
    ),
    (
        "stacyvm-server",
        &[
            "stacyvm-orchestrator",
            "stacyvm-preview",
            "stacyvm-stream",
            "stacyvm-types",
        ],
        // Its tests bring a provider of their own.
        &[
            "stacyvm-client",
            "stacyvm-mock",
            "stacyvm-provider",
            "stacyvm-store",
        ],
    ),
    (
        "stacyvm-preview",
        &["stacyvm-orchestrator", "stacyvm-stream", "stacyvm-types"],
        &[],
    ),
    ("stacyvm-client", &["stacyvm-types"], &[]),
    (
        "stacyvm",
        &[
            "stacyvm-client",
            "stacyvm-config",
            "stacyvm-docker",
            "stacyvm-egress",
            "stacyvm-image",
            "stacyvm-mock",
            "stacyvm-native",
            "stacyvm-orchestrator",
            "stacyvm-preview",
            "stacyvm-provider",
            "stacyvm-server",
            "stacyvm-store",
            "stacyvm-types",
        ],
        &[],
    ),
    (TESTING, &[], &[]),
    ("stacyvm-e2e", &[], &[]),
    ("xtask", &[], &[]),
];

/// What the tests of every crate may use, and nothing else may.
const TESTING: &str = "stacyvm-testing";

/// Large or far-reaching crates of others, and the only ones of ours that may name them.
pub(super) const HELD: &[(&str, &[&str])] = &[
    (
        "anyhow",
        &["stacyvm", "stacyvm-e2e", "stacyvm-provider", "xtask"],
    ),
    ("axum", &["stacyvm-server"]),
    ("bollard", &["stacyvm-docker"]),
    ("clap", &["stacyvm"]),
    ("clap_complete", &["stacyvm"]),
    ("domain", &["stacyvm-egress"]),
    ("globset", &["stacyvm-agent"]),
    (
        "hyper",
        &[
            "stacyvm-client",
            "stacyvm-egress",
            "stacyvm-preview",
            "stacyvm-server",
        ],
    ),
    ("indicatif", &["stacyvm"]),
    ("libc", &["stacyvm-sys"]),
    ("opentelemetry", &["stacyvm"]),
    ("opentelemetry-http", &["stacyvm"]),
    ("opentelemetry-otlp", &["stacyvm"]),
    ("opentelemetry_sdk", &["stacyvm"]),
    (
        "prost",
        &["stacyvm-agent", "stacyvm-agent-client", "stacyvm-proto"],
    ),
    ("prometheus-client", &["stacyvm-server"]),
    ("ring", &["stacyvm-preview"]),
    ("rusqlite", &["stacyvm-store"]),
    ("instant-acme", &["stacyvm-preview"]),
    ("rcgen", &["stacyvm-preview"]),
    ("rustls", &["stacyvm-image", "stacyvm-preview"]),
    ("rustls-native-certs", &["stacyvm-image", "stacyvm-preview"]),
    ("serde-saphyr", &["stacyvm-config"]),
    (
        "tar",
        &[
            "stacyvm",
            "stacyvm-agent",
            "stacyvm-docker",
            "stacyvm-image",
            "stacyvm-tar",
        ],
    ),
    ("tokio-tungstenite", &["stacyvm-client", "stacyvm-server"]),
    ("tokio-rustls", &["stacyvm-preview"]),
    ("tower", &["stacyvm-server"]),
    ("tracing-opentelemetry", &["stacyvm"]),
    ("tracing-subscriber", &["stacyvm"]),
    ("ureq", &["stacyvm-image"]),
    ("utoipa", &["stacyvm-server", "stacyvm-types"]),
    ("utoipa-axum", &["stacyvm-server"]),
    ("zstd", &["stacyvm-image"]),
];

/// Crates whose every outside dependency is on a list: what they weigh is part of a promise.
pub(super) const NARROW: &[(&str, &[&str])] = &[
    (
        "stacyvm-agent",
        &[
            "bytes",
            "parking_lot",
            "prost",
            "rustix",
            "tar",
            "thiserror",
            "tokio",
        ],
    ),
    ("stacyvm-tar", &["rustix", "tar", "thiserror"]),
    ("stacyvm-types", &["jiff", "serde", "thiserror", "utoipa"]),
];

/// Compares what the manifests say with the tables.
pub(super) fn check(workspace: &Workspace, findings: &mut Findings) -> Result<()> {
    let packages = workspace.metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    for package in packages {
        let name = text(package, "name");
        let Some((_, uses, tests_use)) = OURS.iter().find(|(ours, ..)| *ours == name) else {
            findings.error(format!(
                "crate {name} has no row in the table of xtask/src/layers/dependencies.rs"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = text(dependency, "name");
            let for_tests = dependency["kind"].as_str() == Some("dev");
            let is_ours = OURS.iter().any(|(ours, ..)| *ours == other);
            let problem = if is_ours {
                let allowed = uses.contains(&other)
                    || (for_tests && (tests_use.contains(&other) || other == TESTING));
                (!allowed).then_some("which its row in the table does not allow")
            } else {
                (!for_tests).then(|| outside(name, other)).flatten()
            };
            if let Some(problem) = problem {
                findings.error(format!("{name} depends on {other}, {problem}"));
            }
        }
    }
    Ok(())
}

/// Why a crate of ours may not name a crate of others.
fn outside(name: &str, other: &str) -> Option<&'static str> {
    let row = |table: &[(&str, &'static [&'static str])], key: &str| {
        table
            .iter()
            .find(|(first, _)| *first == key)
            .map(|(_, list)| *list)
    };
    if row(HELD, other).is_some_and(|holders| !holders.contains(&name)) {
        return Some("which stands behind another crate");
    }
    if row(NARROW, name).is_some_and(|allowed| !allowed.contains(&other)) {
        return Some("which is not on its short list");
    }
    None
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn errors_of(dependencies: Value, name: &str) -> usize {
        let workspace = Workspace {
            root: PathBuf::new(),
            target: PathBuf::new(),
            metadata: json!({"packages": [{"name": name, "dependencies": dependencies}]}),
        };
        let mut findings = Findings::default();
        check(&workspace, &mut findings).expect("the metadata is complete");
        findings.errors.len()
    }

    #[test]
    fn what_points_upwards_or_sideways_is_found() {
        let on = |name: &str| json!([{"name": name, "kind": null}]);
        assert_eq!(errors_of(on("stacyvm-types"), "stacyvm-store"), 0);
        assert_eq!(errors_of(on("stacyvm-server"), "stacyvm-store"), 1);
        assert_eq!(errors_of(on("stacyvm-native"), "stacyvm-mock"), 1);
        assert_eq!(errors_of(on("stacyvm-provider"), "stacyvm-orchestrator"), 0);
        assert_eq!(errors_of(on("stacyvm-provider"), "stacyvm-server"), 1);
        assert_eq!(errors_of(on("stacyvm-provider"), "stacyvm-preview"), 1);
        assert_eq!(errors_of(on("axum"), "stacyvm-orchestrator"), 1);
        assert_eq!(errors_of(on("regex"), "stacyvm-agent"), 1);
        assert_eq!(errors_of(json!([]), "stacyvm-surprise"), 1);
    }

    #[test]
    fn tests_may_use_what_code_may_not() {
        let on = |name: &str| json!([{"name": name, "kind": "dev"}]);
        assert_eq!(errors_of(on("stacyvm-mock"), "stacyvm-server"), 0);
        assert_eq!(errors_of(on("stacyvm-native"), "stacyvm-server"), 1);
    }

    #[test]
    fn what_tests_share_is_for_tests_alone() {
        let on = |kind: Option<&str>| json!([{"name": "stacyvm-testing", "kind": kind}]);
        for name in ["stacyvm-types", "stacyvm-server", "stacyvm", "xtask"] {
            assert_eq!(errors_of(on(Some("dev")), name), 0, "{name}");
            assert_eq!(errors_of(on(None), name), 1, "{name}");
        }
    }
}
