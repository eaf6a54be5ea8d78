//! What every file owes its reader, whatever crate it is in.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::findings::Findings;
use crate::tools;
use crate::workspace::Workspace;

/// A file with more lines than this causes a warning.
const LONG: usize = 500;
/// A file with more lines than this fails the check.
const TOO_LONG: usize = 600;

/// The one crate that may use `unsafe`.
const UNSAFE_CRATE: &str = "stacyvm-sys";

/// Looks at every file that git has or would take.
pub(super) fn check(workspace: &Workspace, findings: &mut Findings) -> Result<()> {
    let listing = tools::output(Command::new("git").current_dir(&workspace.root).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let places = machine_places(workspace);
    for name in listing.lines() {
        // A file that was removed but not yet from the index has nothing to say.
        let Ok(bytes) = fs::read(workspace.root.join(name)) else {
            continue;
        };
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        for place in &places {
            if text.contains(place.as_str()) {
                findings.error(format!("{name} names a place on this machine: {place}"));
            }
        }
        if name.ends_with(".rs") {
            source(name, &text, findings);
        }
    }
    forbids_unsafe(workspace, findings);
    Ok(())
}

fn source(name: &str, text: &str, findings: &mut Findings) {
    let lines = text.lines().count();
    if lines > TOO_LONG {
        findings.error(format!("{name} has {lines} lines, more than {TOO_LONG}"));
    } else if lines > LONG {
        findings.warn(format!("{name} has {lines} lines, more than {LONG}: why?"));
    }
    // A module of unit tests belongs to the file that names it, which says what it is for.
    if !text.starts_with("//!") && !name.ends_with("/tests.rs") {
        findings.error(format!("{name} does not open with a line of //!"));
    }
    if name.ends_with("/mod.rs") {
        findings.error(format!(
            "{name}: modules are foo.rs beside foo/, not mod.rs"
        ));
    }
}

/// Every root of a library or program but one forbids `unsafe`.
fn forbids_unsafe(workspace: &Workspace, findings: &mut Findings) {
    for package in workspace.metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
    {
        if package["name"] == UNSAFE_CRATE {
            continue;
        }
        for target in package["targets"].as_array().into_iter().flatten() {
            let is_root = target["kind"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|kind| kind == "lib" || kind == "bin");
            let Some(path) = target["src_path"].as_str().map(Path::new) else {
                continue;
            };
            let text = fs::read_to_string(path).unwrap_or_default();
            if is_root && !text.contains("#![forbid(unsafe_code)]") {
                let shown = workspace.shown(path);
                findings.error(format!("{shown} lacks #![forbid(unsafe_code)]"));
            }
        }
    }
}

/// Directories that exist only where this clone stands: a file that names one was written for
/// one machine.
fn machine_places(workspace: &Workspace) -> Vec<String> {
    let everyones = ["/", "/tmp", "/root", "/home", "/srv", "/opt", "/usr/src"];
    let mut places = vec![workspace.root.display().to_string()];
    if let Some(parent) = workspace.root.parent().and_then(Path::to_str)
        && !everyones.contains(&parent)
    {
        places.push(format!("{parent}/"));
    }
    if let Some(home) = std::env::var_os("CARGO_HOME").and_then(|home| home.into_string().ok()) {
        places.push(home);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_word_for_its_reader_is_found() {
        let mut findings = Findings::default();
        source("a.rs", "//! Says it.\nfn a() {}\n", &mut findings);
        assert!(findings.errors.is_empty() && findings.warnings.is_empty());
        source("b.rs", "fn b() {}\n", &mut findings);
        assert_eq!(findings.errors.len(), 1);
    }

    #[test]
    fn long_files_warn_and_longer_ones_fail() {
        let mut findings = Findings::default();
        let file = |lines: usize| format!("//! Long.\n{}", "\n".repeat(lines - 1));
        source("a.rs", &file(LONG), &mut findings);
        assert_eq!((findings.warnings.len(), findings.errors.len()), (0, 0));
        source("a.rs", &file(LONG + 1), &mut findings);
        assert_eq!((findings.warnings.len(), findings.errors.len()), (1, 0));
        source("a.rs", &file(TOO_LONG + 1), &mut findings);
        assert_eq!((findings.warnings.len(), findings.errors.len()), (1, 1));
    }
}
