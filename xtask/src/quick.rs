//! The checks to run after a small change, before the whole CI: the changed crates and what depends on
//! them, in the profile for development.
//!
//! Owns the choice. One rule that is easy to miss: cargo is asked for the whole workspace and builds
//! only what changed; asked for single crates it would choose other features and build anew.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::tools::{self, step};
use crate::workspace::Workspace;
use crate::{agent, check, layers, test};

/// Crates that are part of the programs inside.
const INSIDE: [&str; 6] = [
    "stacyvm-agent",
    "stacyvm-launcher",
    "stacyvm-proto",
    "stacyvm-sys",
    "stacyvm-tar",
    "stacyvm-types",
];

/// Files that decide how every crate is built or tested.
const OF_ALL_CRATES: [&str; 6] = [
    ".cargo/config.toml",
    ".config/nextest.toml",
    "Cargo.lock",
    "Cargo.toml",
    "clippy.toml",
    "rust-toolchain.toml",
];

/// The description of the API, which a test of the server compares with the code.
const OPENAPI: &str = "openapi/stacyvm.json";

/// Checks format, rules, lints, and the tests that the change may have broken.
pub(crate) fn run_changed(workspace: &Workspace, base: Option<&str>) -> Result<()> {
    test::needs_nextest()?;
    let files = changed_files(workspace, base)?;
    let crates = changed_crates(workspace, &files);
    if crates.is_empty() {
        eprintln!("no crate changed; only format and rules are checked");
    } else {
        let names: Vec<&str> = crates.iter().map(String::as_str).collect();
        eprintln!("changed: {}", names.join(", "));
    }
    check::format(workspace)?;
    step("layers", || layers::check(workspace))?;
    if crates.is_empty() {
        return Ok(());
    }
    let inside = INSIDE.iter().any(|name| crates.contains(*name));
    if inside || !workspace.agent_program("stacyvm-agent").exists() {
        agent::build(workspace)?;
    }
    check::clippy(workspace)?;
    test::run_chosen(workspace, &filter(&crates))?;
    if crates.contains("stacyvm-e2e") {
        eprintln!("the end-to-end tests were compiled, not run: cargo xtask test runs them");
    }
    Ok(())
}

/// Everything that differs from `base`, else from where this branch left `main`, else from the last
/// commit; with what git does not track yet.
fn changed_files(workspace: &Workspace, base: Option<&str>) -> Result<BTreeSet<String>> {
    let base = match base {
        Some(base) => base.to_owned(),
        None => fork_point(workspace).unwrap_or_else(|| "HEAD".to_owned()),
    };
    let mut files = BTreeSet::new();
    for arguments in [
        &["diff", "--name-only", "--relative", &base][..],
        &["ls-files", "--others", "--exclude-standard"],
    ] {
        let listing = tools::output(
            Command::new("git")
                .current_dir(&workspace.root)
                .args(arguments),
        )?;
        files.extend(listing.lines().map(str::to_owned));
    }
    Ok(files)
}

/// Where this branch left `main`; none on `main` itself and where there is none.
fn fork_point(workspace: &Workspace) -> Option<String> {
    ["origin/main", "main"].into_iter().find_map(|main| {
        let found = Command::new("git")
            .current_dir(&workspace.root)
            .args(["merge-base", "HEAD", main])
            .output()
            .ok()?;
        let commit = String::from_utf8(found.stdout).ok()?;
        let commit = commit.trim();
        (found.status.success() && !commit.is_empty()).then(|| commit.to_owned())
    })
}

/// The crates that these files belong to; every crate when a file of the whole workspace is among them.
fn changed_crates(workspace: &Workspace, files: &BTreeSet<String>) -> BTreeSet<String> {
    let packages: Vec<(&str, &Path)> = workspace.metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|package| {
            let manifest = Path::new(package["manifest_path"].as_str()?);
            let directory = manifest.parent()?.strip_prefix(&workspace.root).ok()?;
            Some((package["name"].as_str()?, directory))
        })
        .collect();
    let touched = |name: &str, directory: &Path| {
        files.iter().any(|file| {
            OF_ALL_CRATES.contains(&file.as_str())
                || (file == OPENAPI && name == "stacyvm-server")
                || Path::new(file).starts_with(directory)
        })
    };
    packages
        .into_iter()
        .filter(|(name, directory)| touched(name, directory))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// All tests of the changed crates, and the unit tests of what depends on them, in nextest's words. The
/// end-to-end tests have a server to build first.
fn filter(crates: &BTreeSet<String>) -> String {
    let any = |word: &str| {
        let calls: Vec<String> = crates
            .iter()
            .map(|name| format!("{word}(={name})"))
            .collect();
        calls.join(" | ")
    };
    format!(
        "({} | ({}) & (kind(lib) | kind(bin))) - package(=stacyvm-e2e)",
        any("package"),
        any("rdeps")
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn crates_of(files: &[&str]) -> Vec<String> {
        let workspace = Workspace {
            root: PathBuf::from("/clone"),
            target: PathBuf::new(),
            metadata: json!({"packages": [
                {"name": "stacyvm", "manifest_path": "/clone/crates/stacyvm/Cargo.toml"},
                {"name": "stacyvm-types", "manifest_path": "/clone/crates/stacyvm-types/Cargo.toml"},
            ]}),
        };
        let files = files.iter().map(|&file| file.to_owned()).collect();
        changed_crates(&workspace, &files).into_iter().collect()
    }

    #[test]
    fn a_file_belongs_to_the_crate_whose_directory_it_is_in() {
        assert_eq!(crates_of(&["crates/stacyvm/src/main.rs"]), ["stacyvm"]);
        assert_eq!(
            crates_of(&["crates/stacyvm-types/src/lib.rs", "README.md"]),
            ["stacyvm-types"]
        );
        assert_eq!(crates_of(&["docs/api.md"]), [""; 0]);
    }

    #[test]
    fn a_file_of_the_workspace_belongs_to_all() {
        assert_eq!(crates_of(&["Cargo.lock"]), ["stacyvm", "stacyvm-types"]);
    }

    #[test]
    fn dependents_run_their_unit_tests_only() {
        let crates = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(
            filter(&crates),
            "(package(=a) | package(=b) | (rdeps(=a) | rdeps(=b)) & (kind(lib) | kind(bin))) \
             - package(=stacyvm-e2e)"
        );
    }
}
