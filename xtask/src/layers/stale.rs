//! Rows and lines that allow or declare what no crate uses any more: a table that is wider than the
//! truth lets the next crate in unseen.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::dependencies::{HELD, NARROW, OURS};
use super::findings::Findings;
use crate::workspace::Workspace;

/// Compares the tables, and the workspace's list of dependencies, with what the manifests use.
pub(super) fn check(workspace: &Workspace, findings: &mut Findings) -> Result<()> {
    let uses = uses(&workspace.metadata, |_| true);
    let linked = self::uses(&workspace.metadata, |kind| kind.is_null());
    for (name, allowed, for_tests) in OURS {
        for other in allowed.iter().chain(*for_tests) {
            if !uses.contains(&(*name, *other)) {
                findings.error(format!(
                    "the table lets {name} use {other}, which it does not"
                ));
            }
        }
    }
    for (other, holders) in HELD {
        for name in *holders {
            if !uses.contains(&(*name, *other)) {
                findings.error(format!(
                    "the table has {other} behind {name}, which does not use it"
                ));
            }
        }
    }
    for (name, allowed) in NARROW {
        for other in *allowed {
            if !linked.contains(&(*name, *other)) {
                findings.error(format!(
                    "the short list of {name} has {other}, which it does not link"
                ));
            }
        }
    }
    let manifest = fs::read_to_string(workspace.root.join("Cargo.toml"))
        .context("read the workspace's manifest")?;
    let used: BTreeSet<&str> = uses.iter().map(|(_, other)| *other).collect();
    for name in declared(&manifest) {
        if !used.contains(name) {
            findings.error(format!(
                "{name} stands in [workspace.dependencies] and no crate uses it"
            ));
        }
    }
    Ok(())
}

/// Every crate of ours with each dependency whose kind is `wanted`; cargo writes none for what is linked.
fn uses(metadata: &Value, wanted: fn(&Value) -> bool) -> BTreeSet<(&str, &str)> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .flat_map(|package| {
            let name = package["name"].as_str().unwrap_or_default();
            let dependencies = package["dependencies"].as_array().into_iter().flatten();
            dependencies
                .filter(move |other| wanted(&other["kind"]))
                .map(move |other| (name, other["name"].as_str().unwrap_or_default()))
        })
        .collect()
}

/// The names in `[workspace.dependencies]`.
fn declared(manifest: &str) -> impl Iterator<Item = &str> {
    manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('=').map(|(name, _)| name.trim()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn declared_names_end_with_the_table() {
        let manifest = "[workspace]\na = 1\n[workspace.dependencies]\n# theirs\nb = \"1\"\nc-d = { path = \"c\" }\n\n[profile.dev]\ne = 1\n";
        assert_eq!(declared(manifest).collect::<Vec<_>>(), ["b", "c-d"]);
    }

    #[test]
    fn dependencies_of_every_kind_are_uses() {
        let metadata = json!({"packages": [{"name": "a", "dependencies": [
            {"name": "b", "kind": null}, {"name": "c", "kind": "dev"}]}]});
        let all = uses(&metadata, |_| true);
        assert_eq!(all, BTreeSet::from([("a", "b"), ("a", "c")]));
        let linked = uses(&metadata, |kind| kind.is_null());
        assert_eq!(linked, BTreeSet::from([("a", "b")]));
    }
}
