//! The bill of materials of the program, in CycloneDX's JSON form, version 1.6 (source:
//! <https://cyclonedx.org/docs/1.6/json/>): every crate that is linked in, with licence and source.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The crate whose bill it is.
const PROGRAM: &str = "stacyvm";

/// The bill of `PROGRAM` in what `cargo metadata` says.
pub(super) fn of(metadata: &Value, version: &str) -> Result<String> {
    let packages: BTreeMap<&str, &Value> = list(metadata, "packages")
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let root = packages
        .iter()
        .find(|(_, package)| package["name"] == PROGRAM)
        .map(|(id, _)| *id)
        .context("cargo metadata has no package stacyvm")?;
    let linked = linked(metadata, root);
    let components: Vec<Value> = linked
        .iter()
        .filter(|id| **id != root)
        .filter_map(|id| packages.get(id))
        .map(|package| component(package))
        .collect();
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {
            "type": "application", "name": PROGRAM, "version": version,
            "purl": format!("pkg:cargo/{PROGRAM}@{version}"),
        }},
        "components": components,
    });
    let mut text = serde_json::to_string_pretty(&bill).context("write the bill as JSON")?;
    text.push('\n');
    Ok(text)
}

fn component(package: &Value) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let (name, version) = (text("name"), text("version"));
    // An old spelling of `OR` that SPDX expressions do not have.
    let licence = text("license").replace('/', " OR ");
    json!({
        "type": "library",
        "name": name,
        "version": version,
        "purl": format!("pkg:cargo/{name}@{version}"),
        "licenses": [{"expression": licence}],
    })
}

/// Every package that the program is linked from: what tests and build scripts use is left out.
fn linked<'a>(metadata: &'a Value, root: &'a str) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"], "nodes")
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let mut found = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        let Some(node) = nodes.get(id) else { continue };
        for dependency in list(node, "deps") {
            let normal = list(dependency, "dep_kinds").any(|kind| kind["kind"].is_null());
            if let Some(other) = dependency["pkg"].as_str().filter(|_| normal)
                && found.insert(other)
            {
                open.push(other);
            }
        }
    }
    found
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_tests_use_is_not() {
        let dependency = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                {"id": "0", "name": "stacyvm", "version": "0.1.0", "license": "MIT"},
                {"id": "1", "name": "a", "version": "1.0.0", "license": "MIT/Apache-2.0"},
                {"id": "2", "name": "b", "version": "2.0.0", "license": "ISC"},
                {"id": "3", "name": "c", "version": "3.0.0", "license": "ISC"},
            ],
            "resolve": {"nodes": [
                {"id": "0", "deps": [dependency("1", Value::Null), dependency("3", json!("dev"))]},
                {"id": "1", "deps": [dependency("2", Value::Null)]},
                {"id": "2", "deps": []},
                {"id": "3", "deps": []},
            ]},
        });
        let bill: Value = serde_json::from_str(&of(&metadata, "0.2.0").unwrap()).unwrap();
        let names: Vec<&str> = list(&bill, "components")
            .filter_map(|part| part["purl"].as_str())
            .collect();
        assert_eq!(names, ["pkg:cargo/a@1.0.0", "pkg:cargo/b@2.0.0"]);
        assert_eq!(
            bill["components"][0]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(bill["metadata"]["component"]["version"], "0.2.0");
    }
}
