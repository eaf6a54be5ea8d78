//! A release: the version and the changelog's section, then a tarball with checksums and a bill of
//! materials in `target/release-VERSION`.
//!
//! Owns files only. Committing, tagging and publishing stay with a person; the last lines say how.

mod bill;
mod changelog;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::tools::{self, run, step};
use crate::workspace::{self, Workspace};
use crate::{agent, openapi, server};

/// What goes into the tarball beside the program.
const PAGES: [&str; 8] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "COMPATIBILITY.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "docs",
];

/// Writes the version, cuts the changelog, builds with `profile`, and packs.
pub(crate) fn run_all(workspace: &Workspace, version: &str, profile: &str) -> Result<()> {
    let version = Version::parse(version)?;
    let current = Version::parse(&current(workspace)?)?;
    ensure!(
        version >= current,
        "{version} is older than {current}, the version that Cargo.toml has"
    );
    step("version and changelog", || {
        cut_changelog(workspace, &version)?;
        write_version(workspace, &version)
    })?;
    // The description of the API names the version.
    step("description of the API", || {
        agent::build(workspace)?;
        openapi::run(workspace, openapi::Stale::Update)
    })?;
    agent::check(workspace)?;
    let program = server::build(workspace, profile)?;
    step("pack", || pack(workspace, &version.to_string(), &program))?;
    println!(
        "read `git diff`, then:\n  git commit -am \"release: {version}\" && git tag -s v{version}"
    );
    Ok(())
}

/// Three numbers; what the project releases has no further parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version([u64; 3]);

impl Version {
    fn parse(text: &str) -> Result<Self> {
        let numbers: Option<Vec<u64>> = text.split('.').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[major, minor, patch]) => Ok(Self([major, minor, patch])),
            _ => bail!("a version is three numbers like 0.2.0, not {text:?}"),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

fn current(workspace: &Workspace) -> Result<String> {
    workspace.metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "stacyvm")
        .and_then(|package| package["version"].as_str())
        .map(str::to_owned)
        .context("cargo metadata has no package stacyvm")
}

/// Leaves a changelog alone that has the section already, so that a release that failed later can be
/// made again.
fn cut_changelog(workspace: &Workspace, version: &Version) -> Result<()> {
    let path = workspace.root.join("CHANGELOG.md");
    let text = fs::read_to_string(&path).context("read the changelog")?;
    if changelog::has(&text, &version.to_string()) {
        eprintln!("    CHANGELOG.md has a section for {version} already: left as it is");
        return Ok(());
    }
    let today = tools::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let cut = changelog::cut(&text, &version.to_string(), today.trim())?;
    fs::write(&path, cut).context("write the changelog")
}

fn write_version(workspace: &Workspace, version: &Version) -> Result<()> {
    let path = workspace.root.join("Cargo.toml");
    let manifest = fs::read_to_string(&path).context("read Cargo.toml")?;
    let mut lines: Vec<String> = manifest.lines().map(str::to_owned).collect();
    let line = lines
        .iter_mut()
        .skip_while(|line| *line != "[workspace.package]")
        .find(|line| line.starts_with("version = "))
        .context("Cargo.toml has no version in [workspace.package]")?;
    *line = format!("version = \"{version}\"");
    fs::write(&path, lines.join("\n") + "\n").context("write Cargo.toml")?;
    // Both lock files name the version of every crate of ours.
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        run(Command::new(workspace::cargo())
            .current_dir(&workspace.root)
            .args(["update", "--quiet", "--workspace", "--manifest-path"])
            .arg(manifest))?;
    }
    Ok(())
}

fn pack(workspace: &Workspace, version: &str, program: &Path) -> Result<()> {
    let name = format!("stacyvm-{version}-{}", workspace::host_target());
    let place = workspace.target.join(format!("release-{version}"));
    let folder = place.join(&name);
    if place.exists() {
        fs::remove_dir_all(&place).context("remove an earlier package")?;
    }
    fs::create_dir_all(&folder).context("make the package's folder")?;
    fs::copy(program, folder.join("stacyvm")).context("copy the program")?;
    for page in PAGES {
        run(Command::new("cp")
            .arg("-R")
            .arg(workspace.root.join(page))
            .arg(&folder))
        .with_context(|| format!("copy {page}"))?;
    }
    let bill = format!("{name}.cdx.json");
    let metadata = workspace.full_metadata()?;
    fs::write(place.join(&bill), bill::of(&metadata, version)?).context("write the bill")?;
    let tarball = format!("{name}.tar.gz");
    // The same content gives the same bytes, whoever packs it and when.
    run(Command::new("tar")
        .current_dir(&place)
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mtime=@0", "--use-compress-program=gzip -n", "-cf"])
        .args([&tarball, &name]))?;
    fs::remove_dir_all(&folder).context("remove the package's folder")?;
    let sums = tools::output(
        Command::new("sha256sum")
            .current_dir(&place)
            .args([&tarball, &bill]),
    )?;
    fs::write(place.join("SHA256SUMS"), sums).context("write the checksums")?;
    println!("{}", workspace.shown(&place));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_compare_by_number_and_have_three_parts() {
        let version = |text| Version::parse(text).unwrap();
        assert!(version("0.10.0") > version("0.9.9"));
        assert_eq!(version("1.2.3").to_string(), "1.2.3");
        for wrong in ["1.2", "1.2.3.4", "v1.2.3", "1.2.x", ""] {
            Version::parse(wrong).unwrap_err();
        }
    }
}
